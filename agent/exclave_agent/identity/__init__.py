"""Identity: the keys, certificates and pins that make this machine an agent of one tenant."""

from exclave_agent.identity.join import join
from exclave_agent.identity.renew import Renewer
from exclave_agent.identity.store import Identity, IdentityStore, identity_folder, load

__all__ = ["Identity", "IdentityStore", "Renewer", "identity_folder", "join", "load"]

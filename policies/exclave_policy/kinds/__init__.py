"""The documents of a pack, by kind: what each says once it is read and checked."""

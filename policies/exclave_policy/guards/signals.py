"""The table of signals that a text wants to give a model other orders: names, weights, patterns.

Patterns are RE2, over a plain reading (lower case, no accents): linear in the text, whatever it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Signal:
    """One sign of it."""

    name: str
    weight: int
    """What it adds to the score, of 100."""
    meaning: str
    patterns: tuple[str, ...] = ()
    """None: it is found by other means."""
    strong: bool = False
    """Looked for in what was hidden, too."""


_G = r"[^a-z0-9.!?]{1,4}"
"""Between two words of a phrase."""
_W = rf"(?:[a-z0-9']{{1,24}}{_G})"
"""A word that does not matter."""


def _any(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


_FILL = (
    rf"(?:(?:all|any|every|each|the|your|of|these|those|this|that|to|about|other|such|and|or|"
    rf"a|single|whatever|entire|set|with|for|please|completely|entirely|totally|also|just|now|"
    rf"immediately|simply|me|us|out|exactly|verbatim|full|complete|exact|whole|contents?|text|"
    rf"rest|in|on|from|word|as|it|at|back|here|own|original|list|version|you|have|were|"
    rf"been|given|right|user|everything|current|own|copy){_G})"
)
_DROP = _any(
    *("ignore", "ignoring", "disregard", "disregarding", "forget", "override", "overrule"),
    *("overwrite", "discard", "drop", "dismiss", "bypass", "neglect", "erase", "delete", "cancel"),
    *("abandon", "unlearn", "void", "skip", "disobey", "suspend", "nullify", "supersede"),
    *("do not follow", "don't follow", "dont follow", "stop following", "stop obeying"),
    *("no longer follow", "pay no attention to", "set aside", "throw away", "throw out"),
    *("do not obey", "don't obey", "replace", "supersedes", "overrides", "put aside", "clear"),
)
_EARLIER = _any(
    *("previous", "previously", "prior", "above", "earlier", "preceding", "foregoing", "initial"),
    *("original", "existing", "past", "system", "developer", "safety", "hidden", "built-in"),
    *("default", "internal", "former", "old", "core", "programmed", "operator's", "operator"),
)
_RULES = _any(
    *("instructions?", "orders?", "rules?", "prompts?", "directions", "directives?", "guidelines"),
    *("commands?", "constraints?", "training", "programming", "restrictions", "guardrails"),
    *("safeguards", "guidance", "policies", "prompting", "briefing", "instruct", "configuration"),
)
_SO_FAR = _any(
    *("above", "before", "previously", "earlier", "so far", "until now", "up to now"),
    *("up to this point", "you were given", "you have been given", "you've been given"),
    *("you were told", "you have been told", "you've been told", "you have received"),
    *("you received", "given to you", "you got", "you have", "you know", "from the system"),
    *("you were taught", "from your developers?", "of your developers?", "told to you"),
    *("that came before", "prior to this", "in your prompt", "your creators", "you learned"),
    *("that preceded", "in the system prompt", "from before"),
)
_OVERRIDE = (
    rf"\b{_DROP}{_G}{_FILL}{{0,5}}(?:{_EARLIER}{_G}(?:(?:and|or){_G})?){{1,3}}{_W}?{_RULES}\b",
    rf"\b{_DROP}{_G}(?:(?:all|any|every|each|of){_G}){{0,3}}your{_G}{_W}?{_RULES}\b",
    rf"\b{_DROP}{_G}{_FILL}{{0,4}}{_RULES}{_G}{_FILL}{{0,3}}{_SO_FAR}\b",
    rf"\b{_DROP}{_G}(?:about{_G})?(?:everything|anything|whatever|all){_G}{_W}{{0,3}}?{_SO_FAR}\b",
    rf"\b{_DROP}{_G}(?:all{_G})?(?:of{_G})?(?:the|what(?:ever)?)"
    rf"{_G}(?:is{_G})?above{_G}(?:and|instead|;|now)\b",
    # German
    r"\b(?:ignorier[a-z]*|vergiss|vergesst|vergessen sie|missacht[a-z]*|verwirf|verwerfen sie|"
    r"uberschreib[a-z]*|umgeh[a-z]*|ubergeh[a-z]*|losch[a-z]*|halte? dich nicht (?:mehr )?an|"
    r"befolg[a-z]* nicht(?: mehr| langer)?|streich[a-z]*)"
    rf"{_G}{_W}{{0,4}}(?:vorherig|bisherig|obig|fruher|vorangegangen|vorangehend|ursprunglich|"
    rf"vorig|dein|eure|ihre system|saemtlich|samtlich|alle){{1}}[a-z]*{_G}{_W}{{0,3}}"
    r"(?:system)?(?:anweisung|instruktion|regel|vorgabe|befehl|richtlinie|anordnung|prompt|"
    r"auftrag|beschrankung|einschrankung)[a-z]*",
    r"\b(?:vergiss|ignoriere|vergessen sie|ignorieren sie) alles"
    rf"{_G}{_W}{{0,2}}(?:bisher|vorher|zuvor|oben|bis jetzt|gesagt|gelernt|steht|davor)",
    # French
    r"\b(?:ignore[zr]?|oublie[zr]?|ne (?:tiens|tenez) (?:plus|pas) compte|ne (?:suis|suivez) plus|"
    r"fais abstraction|faites abstraction|neglige[zr]?|outrepasse[zr]?|contourne[zr]?|"
    r"n'obeis plus|n'obeissez plus|annule[zr]?|abandonne[zr]?|supprime[zr]?|ecarte[zr]?)"
    rf"{_G}{_W}{{0,4}}(?:instruction|consigne|regle|directive|ordre|prompt|restriction)s?"
    rf"{_G}{_W}{{0,3}}(?:preceden|anterieur|ci-dessus|initial|d'avant|recu|donnee|plus haut|"
    r"du systeme|systeme|d'origine|qui precede)",
    r"\b(?:ignore[zr]?|oublie[zr]?|contourne[zr]?|outrepasse[zr]?|desobeis a|n'obeis plus a)"
    rf"{_G}(?:(?:toutes?|tous){_G})?(?:tes|vos){_G}{_W}?(?:instruction|consigne|regle|directive|"
    r"ordre|restriction|filtre)s?",
    r"\b(?:oublie|ignore)[zr]? tout ce (?:qui|qu|que)",
    # Spanish
    r"\b(?:ignora[rd]?|ignore|olvida[rd]?|olvidate de|olvide|descarta|descarte|haz caso omiso|"
    r"haga caso omiso|no hagas caso|no haga caso|desobedece|omite|pasa por alto|deja de seguir|"
    r"no sigas|anula|salta|saltate|borra|prescinde)"
    rf"{_G}{_W}{{0,4}}(?:instruccion|ordenes|regla|directri|directiva|indicacion|norma|consigna|"
    rf"restriccion|prompt)[a-z]*{_G}{_W}{{0,3}}(?:anterior|previ|de arriba|inicial|recibid|dadas|"
    r"hasta ahora|del sistema|originales|precedent)",
    r"\b(?:ignora|olvida|descarta|desobedece|omite|salta|saltate|anula)"
    rf"{_G}(?:(?:de|todas|todos){_G}){{0,2}}tus{_G}{_W}?(?:instruccion|ordenes|regla|directri|"
    r"directiva|norma|restriccion|filtro)[a-z]*",
    r"\b(?:olvida|ignora) todo lo (?:anterior|que|dicho|previo)",
    # Italian
    r"\b(?:ignora(?:re|te)?|dimentica(?:re|te)?|scorda(?:ti)?|trascura(?:re)?|non seguire(?: piu)?|"
    r"non tener(?:e)? conto|disattendi|annulla|disobbedisci|scavalca|aggira|cancella|sovrascrivi|"
    r"lascia perdere)"
    rf"{_G}{_W}{{0,4}}(?:istruzion|regol|ordin|direttiv|comand|indicazion|prompt|restrizion)[a-z]*"
    rf"{_G}{_W}{{0,3}}(?:preceden|sopra|inizial|ricevut|date|finora|di sistema|del sistema|"
    r"original|anterior)",
    r"\b(?:ignora|dimentica|disattendi|annulla|aggira|scavalca)"
    rf"{_G}(?:(?:tutte|tutti|le|i){_G}){{0,2}}(?:tue|tuoi|vostre){_G}{_W}?(?:istruzion|regol|"
    r"ordin|direttiv|restrizion|filtr)[a-z]*",
    r"\b(?:dimentica|ignora) tutto (?:cio|quello|quanto)",
    # Dutch
    r"\b(?:negeer|vergeet|verwaarloos|schrap|overschrijf|omzeil|wis|laat|sla|volg niet langer|"
    r"houd je niet (?:meer )?aan|hou je niet (?:meer )?aan|trek je niets aan van|"
    r"gehoorzaam niet(?: langer| meer)?)"
    rf"{_G}{_W}{{0,3}}(?:vorige|eerdere|voorgaande|bovenstaande|je|jouw|oorspronkelijke|alle|"
    rf"initiele|voorafgaande|uw systeem){_G}{_W}{{0,2}}(?:systeem)?(?:instructie|opdracht|regel|"
    r"aanwijzing|richtlijn|bevel|prompt|beperking)[a-z]*",
    rf"\b(?:negeer|vergeet) alles{_G}{_W}{{0,3}}(?:hiervoor|eerder|hierboven|tot nu|verteld|weet|"
    r"gezegd)",
)
_SHOW = _any(
    *("reveal", "show", "print", "display", "output", "repeat", "tell", "give", "share", "expose"),
    *("leak", "disclose", "recite", "return", "write", "dump", "list", "summari[sz]e", "translate"),
    *("quote", "copy", "paste", "echo", "send", "provide", "spell", "state", "post", "type"),
    *("what is", "what's", "what are", "what was", "what were", "reproduce", "render", "include"),
    *("encode", "describe", "read", "extract", "paraphrase", "see"),
)
_SECRET_TEXT = _any(
    rf"(?:system|initial|hidden|secret|internal|pre|developer|base|root|original|confidential)"
    rf"{_G}(?:system{_G}|pre{_G})?(?:prompts?|instructions?|directives|preamble|configuration "
    rf"prompt|system message)",
    rf"your{_G}(?:{_W})?(?:system|initial|hidden|secret|internal|original|first|starting){_G}"
    rf"(?:message|rules|guidelines|text|configuration|orders|directions)",
    rf"(?:instructions|rules|prompt|text|guidelines){_G}(?:that{_G})?(?:you|your){_G}(?:were|was|"
    rf"have been|developers?|creators?|started|begin){_G}{_W}{{0,2}}?(?:given|told|fed|gave|wrote|"
    r"with|set)",
)
_REVEAL = (
    rf"\b{_SHOW}{_G}{_FILL}{{0,8}}{_SECRET_TEXT}",
    r"\b(?:zeig|nenn|gib|verrat|druck|wiederhol|offenbar|schreib|ubersetz|fass|lies|poste|wie "
    r"lautet|was ist|was steht in)[a-z]*"
    rf"{_G}{_W}{{0,4}}(?:dein[a-z]*|den|die|das|eure[a-z]*){_G}{_W}{{0,2}}?(?:system-?prompt|system"
    r"-?anweisung|systemnachricht|geheime[a-z]* (?:anweisung|instruktion)|interne[a-z]* (?:"
    r"anweisung|regel)|ursprungliche[a-z]* anweisung|anfangsanweisung|versteckte[a-z]* anweisung|"
    r"initiale[a-z]* (?:prompt|anweisung))",
    r"\b(?:montre|affiche|revele|donne|repete|ecris|imprime|traduis|divulgue|communique|recopie|"
    r"quel est|quelles sont|cite|resume|dis)[a-z-]*"
    rf"{_G}{_W}{{0,3}}(?:ton|ta|tes|votre|vos|le|l|les|du|des){_G}{_W}{{0,2}}?(?:prompt (?:systeme|"
    r"initial|cache|de depart)|invite systeme|message systeme|(?:instructions|consignes|directives)"
    r" (?:systeme|initiales|cachees|secretes|internes|d'origine|confidentielles))",
    r"\b(?:muestra|revela|dime|imprime|repite|escribe|ensena|comparte|traduce|dame|cual es|cuales "
    r"son|copia|divulga|resume)[a-z]*"
    rf"{_G}{_W}{{0,3}}(?:tu|tus|el|la|las|los|su){_G}{_W}{{0,2}}?(?:prompt (?:del sistema|de "
    r"sistema|inicial|oculto)|mensaje (?:de|del) sistema|(?:instrucciones|ordenes|directrices|"
    r"reglas) (?:iniciales|ocultas|secretas|internas|del sistema|de sistema|originales|"
    r"confidenciales))",
    r"\b(?:mostra|rivela|dimmi|stampa|ripeti|scrivi|condividi|traduci|dammi|qual e|quali sono|"
    r"copia|divulga|riassumi)[a-z]*"
    rf"{_G}{_W}{{0,3}}(?:tuo|tue|il|le|la|i|vostro){_G}{_W}{{0,2}}?(?:prompt (?:di sistema|"
    r"iniziale|nascosto)|messaggio di sistema|(?:istruzioni|direttive|regole) (?:iniziali|nascoste|"
    r"segrete|interne|di sistema|originali|riservate))",
    r"\b(?:toon|laat|geef|onthul|print|herhaal|schrijf|vertaal|deel|wat is|wat zijn|wat staat er in|"
    r"kopieer|noem|vat)[a-z]*"
    rf"{_G}{_W}{{0,4}}(?:je|jouw|de|het|uw){_G}{_W}{{0,2}}?(?:systeem-?prompt|systeembericht|systeem"
    r"instructies|(?:verborgen|geheime|interne|oorspronkelijke|initiele) (?:instructies|regels|"
    r"prompt|opdrachten))",
)
_MODES = (
    r"\bdo anything now\b",
    r"\b(?:you are|you're|act as|become|be|called|named|pretend to be|as|mode|into|activate|enable)"
    rf"{_G}(?:now{_G}|a{_G}|an{_G}|going to be{_G}|acting as{_G})*(?:dan|stan|dude|aim|"
    r"evilbot|betterdan|jailbroken|unchained|unfiltered (?:ai|assistant|model|chatbot)|"
    r"unrestricted (?:ai|assistant|model|chatbot)|uncensored (?:ai|assistant|model|chatbot))\b",
    r"\b(?:developer|debug|god|jailbreak|jailbroken|unrestricted|unfiltered|uncensored|admin|root|"
    r"sudo|maintenance|evil|opposite|dan|no-limits|override|diagnostic|testing)"
    rf"{_G}mode{_G}{_W}{{0,2}}?(?:enabled?|on|activated?|engaged?|unlocked|output|now|is active)\b",
    r"\b(?:enter|enable|activate|switch (?:in)?to|switch on|turn on|go into|you are (?:now )?in|"
    r"you're (?:now )?in|unlock|simulate|respond in|answer in|reply in|engage|initiate)"
    rf"{_G}(?:(?:your|the|into|a|an|full){_G})*(?:developer|debug|god|jailbreak|jailbroken|"
    r"unrestricted|unfiltered|uncensored|evil|opposite|dan|no-limits|override|sudo|root)"
    rf"{_G}mode\b",
    r"\b(?:entwickler|debug|gott|jailbreak|wartungs)-?modus (?:ist )?(?:jetzt )?(?:an|aktiv|"
    r"aktiviert|ein)",
    r"\b(?:aktivier|wechsl|schalt|geh|du bist (?:jetzt )?im)[a-z]*"
    rf"{_G}{_W}{{0,3}}(?:entwickler|gott|jailbreak|unzensiert[a-z]* )-?modus",
    r"\b(?:active|passe[zr]?|entre[zr]?|tu es (?:maintenant )?) ?(?:en |le |dans le )*mode "
    r"(?:developpeur|dieu|debug|sans (?:limite|restriction|filtre)s?|jailbreak|debride)",
    r"\b(?:activa|entra|pasa|estas|cambia|habilita)[a-z]* (?:ahora )?(?:en |el |al |a )*modo "
    r"(?:desarrollador|dios|debug|sin (?:limites|restricciones|filtros|censura)|jailbreak)",
    r"\b(?:attiva|entra|passa|sei|abilita)[a-z]* (?:ora )?(?:in |la |nella |alla )*modalita "
    r"(?:sviluppatore|dio|debug|senza (?:limiti|restrizioni|filtri|censura)|jailbreak)",
    r"\b(?:activeer|schakel|ga|je bent|je zit|zet)[a-z]*"
    rf"{_G}{_W}{{0,4}}(?:ontwikkelaars?|god|debug|jailbreak|ongefilterde?)-?(?:modus|mode)",
)
_LIMITS = _any(
    *("safety", "content filters?", "filters?", "guardrails?", "restrictions?", "safeguards?"),
    *("moderation", "censorship", "content polic(?:y|ies)", "alignment", "limitations"),
    *("ethic(?:s|al)", "guidelines", "protections?", "safety protocols?", "security protocols?"),
)
_BYPASS = (
    r"\b(?:bypass|disable|turn off|switch off|circumvent|deactivate|remove|evade|get around|break "
    r"free (?:of|from)|lift|suspend|break|drop|work around|free yourself from|escape|get past|shut "
    r"off|unlock|jailbreak|released? from|freed? from|broken free (?:of|from)|not bound by|no longer "
    r"bound by|unbound by|without obeying)"
    rf"{_G}(?:(?:all|any|of|the|every|those|these){_G}){{0,3}}(?:your|openai|anthropic|the model's|"
    rf"the ai's|its own)(?:'s)?{_G}{_W}{{0,2}}{_LIMITS}\b",
    r"\byou (?:have|now have|are under|'ve got|have got|know) (?:absolutely )?no (?:more )?(?:"
    r"restrictions|limits|limitations|filters?|rules|guidelines|censorship|ethics|boundaries|moral)",
    r"\b(?:schalte?|deaktivier[a-z]*|umgeh[a-z]*|entfern[a-z]*)"
    rf"{_G}(?:(?:alle|all){_G})?dein[a-z]*{_G}{_W}{{0,2}}(?:sicherheit|filter|beschrankung|"
    r"einschrankung|schutz|richtlinie)",
    r"\b(?:desactive|contourne|leve|enleve|supprime|retire)[zr]?"
    rf"{_G}(?:(?:tous|toutes){_G})?(?:tes|vos){_G}{_W}{{0,2}}(?:filtre|restriction|securite|"
    r"limite|garde-fou|protection|mesures)",
    r"\b(?:desactiva|elude|elimina|quita|evita|salta|esquiva)[a-z]*"
    rf"{_G}(?:(?:todos|todas){_G})?tus{_G}{_W}{{0,2}}(?:filtro|restriccion|seguridad|limite|"
    r"proteccion|limitacion|medidas)",
    r"\b(?:disattiva|aggira|rimuovi|elimina|togli|disabilita)"
    rf"{_G}(?:(?:tutti|tutte|i|le){_G}){{0,2}}(?:tuoi|tue){_G}{_W}{{0,2}}(?:filtr|restrizion|"
    r"sicurezza|limit|protezion|misure)",
    r"\b(?:schakel|omzeil|verwijder|deactiveer|zet)"
    rf"{_G}(?:(?:al|alle){_G})?(?:je|jouw){_G}{_W}{{0,2}}(?:filter|beperking|veiligheid|"
    r"beveiliging|limiet|richtlijn)",
)
_SECRECY = (
    r"\b(?:do not|don't|dont|never|must not|without|avoid) (?:ever )?(?:tell|telling|inform|informing"
    r"|notify|notifying|alert|alerting|mention|mentioning|reveal|revealing|let|letting|warn|"
    r"warning|disclose|show|showing|ask|asking|report|reporting|say)"
    rf"{_G}{_W}{{0,4}}?(?:users?|human|operator|owner|reader|recipient|reviewer|anyone|anybody|"
    r"customer know|person you)\b",
    r"\b(?:do not|don't|never|without) (?:ever )?(?:mention|mentioning|reveal|revealing|disclos(?:e|"
    r"ing)|acknowledg(?:e|ing)|discuss)"
    rf"{_G}(?:to{_G}{_W}{{1,2}}?|that{_G})?(?:(?:you|any{_G}of){_G}{_W}{{0,3}}?)?(?:this|these|the)"
    rf"{_G}{_W}?(?:instructions?|message|note|prompt|orders?|injection|request to)",
    r"\bkeep (?:this|it|that) (?:a )?(?:secret|hidden|confidential|quiet)? ?from the (?:user|human|"
    r"operator)",
    r"\b(?:sag|erwahn|verrat|informier|teil)[a-z]*"
    rf"{_G}{_W}{{0,4}}(?:nutzer|benutzer|anwender)[a-z]*{_G}{_W}{{0,3}}(?:nicht|nichts)\b",
    r"\bohne (?:es )?(?:dem|den|die) (?:nutzer|benutzer|anwender)[a-z]* (?:davon )?(?:zu|etwas)",
    r"\b(?:ne (?:le |l'|rien |en )?(?:dis|dites|mentionne|informe|previens|parle|revele)[a-z]* "
    r"(?:pas|rien)|sans (?:le )?(?:dire|prevenir|informer|avertir|en parler))"
    rf"{_G}{_W}{{0,3}}(?:l|a l|utilisateur|utilisatrice)[a-z']*utilisateur",
    r"\bsans (?:le |en )?(?:dire|prevenir|informer|avertir|parler)[^.!?\n]{1,20}utilisateur",
    r"\bne (?:le |l'|rien |en )?(?:dis|dites|mentionne|informe|previens|parle|revele)[a-z]*[^.!?\n]"
    r"{1,30}utilisateur",
    r"\b(?:no (?:se lo |le |lo )?(?:digas|informes|menciones|reveles|avises|cuentes)|sin (?:"
    r"decirselo|avisar|informar|decirle|que lo sepa))[^.!?\n]{1,24}usuario",
    r"\b(?:non (?:lo |dirlo |ne )?(?:dire|dirlo|informare|menzionare|rivelare|avvisare|parlare)|"
    r"senza (?:dirlo|avvisare|informare|dire|farlo sapere|parlarne))[^.!?\n]{1,24}utente",
    r"\b(?:zeg|vertel|meld|noem|informeer|waarschuw)[^.!?\n]{1,24}gebruiker[^.!?\n]{0,12}(?:niet|"
    r"niets)\b",
    r"\bzonder (?:dit |het |dat )?(?:aan )?(?:de )?gebruiker",
)
_ROLE = (
    r"(?:^|[.!?\n:;,] ?|\bnow |\bon |\bthen |\band )(?:you are|you're|you will be|u r) (?:now|no "
    r"longer|from now on|hereby|going to be|not (?:an?|chatgpt|claude|bound))\b",
    r"\bfrom (?:now|this (?:point|moment)) on(?:wards?)?,? (?:you|your|act|answer|respond|ignore)\b",
    r"\b(?:act|behave|respond|answer|reply|pretend|roleplay|role-play|speak|talk)"
    rf"{_G}{_W}{{0,4}}?(?:unrestricted|unfiltered|uncensored|amoral|unethical|evil|jailbroken|"
    r"rogue|malicious|without (?:any )?(?:rules|restrictions|limits|filters|morals|ethics|"
    r"guidelines|safety)|no (?:rules|restrictions|limits|filters|morals|ethics|guidelines))",
    r"\b(?:stay|remain|stick|keep) in character\b",
    r"\byou (?:can|will|must|may) (?:now )?(?:do anything|say anything|answer anything|curse)",
    r"\b(?:ab jetzt|von nun an|ab sofort) (?:bist|heisst|antwortest|sollst|verhaltst|handelst|"
    r"spielst) du\b",
    r"\bdu bist (?:jetzt|nun|ab jetzt|ab sofort|nicht mehr|nicht langer|kein)\b",
    r"\b(?:a partir de maintenant|desormais|dorenavant),? (?:tu|vous)\b|\btu (?:es|n'es) (?:"
    r"maintenant|desormais|plus)\b|\btu t'appelles desormais\b",
    r"\b(?:a partir de ahora|desde ahora|de ahora en adelante),? (?:eres|seras|tu|actua|actuaras|"
    r"responde|responderas|te llamas)\b|\bahora eres\b|\bya no eres\b",
    r"\b(?:d'ora in poi|da adesso|da ora in poi|da questo momento),? (?:sei|sarai|tu|agisci|"
    r"rispondi|ti chiami|risponderai)\b|\b(?:ora|adesso) sei\b|\bnon sei piu\b",
    r"\b(?:vanaf nu|voortaan) (?:ben|heet|antwoord|reageer|gedraag|speel|doe) (?:je|jij)\b|"
    r"\bje bent (?:nu|niet langer|voortaan|geen)\b",
)
_REFUSAL = (
    r"\b(?:never|do not|don't|dont|must not|cannot|can't|may not|not allowed to|without) (?:ever )?"
    r"(?:refuse|refusing|say(?:ing)? (?:that )?(?:you |no\b|\W?(?:i )?(?:can|sorry))|decline|"
    r"declining|apologi[sz]e|apologi[sz]ing|warn|warning|moraliz|lectur|include (?:any )?(?:"
    r"warnings|disclaimers)|add(?:ing)? (?:any )?(?:warnings?|disclaimers?)|claim (?:that )?you|"
    r"mention (?:ethics|policies|your guidelines|that you are)|break character|reject)",
    r"\bwith(?:out| no) (?:any |all |the usual |further )?(?:restrictions?|filters?|censorship|"
    r"limitations|ethical|moral|safety|disclaimers?|refusals?|content polic|guardrails|hedging)",
    r"\b(?:no|zero) (?:refusals?|disclaimers?|warnings or|ethical|moral|restrictions or|"
    r"censorship|filters?|apologies)\b",
    r"\b(?:start|begin|prefix|open)(?:ing)? (?:your|the|every|each) (?:\w+ ){0,2}?(?:answer|response|"
    r"reply|message|sentence|output)s? with[^.\n]{0,6}(?:sure|absolutely|of course|yes|certainly|"
    r"here is|okay|understood)",
    r"\b(?:ohne (?:jede |jegliche |irgendwelche )?(?:einschrankung|filter|zensur|beschrankung|"
    r"warnhinweis|moral)|(?:lehne|verweiger[a-z]*|sag[a-z]*) (?:niemals|nie|nichts? ab|keine)|"
    r"niemals ab|nie(?:mals)?,? dass du (?:das |etwas )?nicht)",
    r"\b(?:sans (?:aucune? )?(?:restriction|filtre|censure|limite|avertissement|morale)|ne refuse[zr]?"
    r" (?:jamais|rien|pas)|ne dis jamais que)",
    r"\b(?:sin (?:ninguna? |ningun tipo de )?(?:restriccion|filtro|censura|limites|advertencia|etica"
    r")|nunca (?:te niegues|rechaces|digas que no)|no te niegues)",
    r"\b(?:senza (?:alcuna? |nessuna? )?(?:restrizion|filtr|censura|limiti|avvertenz|etica)|non "
    r"rifiutare mai|non rifiutarti|non dire mai (?:che|di no))",
    r"\b(?:zonder (?:enige )?(?:beperking|filter|censuur|waarschuwing|ethi)|weiger (?:nooit|niet|"
    r"niets)|zeg nooit dat je)",
)
_EXFILTRATION = (
    r"!\[[^\]\n]{0,80}\]\([^)\n]{0,200}[?&/=][^)\n]{0,60}(?:=|/)[^)\n]{0,10}(?:[{<\[%$]|data|secret|"
    r"history|conversation|summary|api_?key|token|password|chat|prompt|insert|encoded|base64)",
    r"\b(?:append|include|encode|embed|insert|put|add|attach|place|smuggle|send|post|forward|upload|"
    r"transmit|exfiltrate|leak|email|e-mail|mail|copy|submit)"
    rf"{_G}{_W}{{0,6}}?(?:conversation|chat history|history|secrets?|api keys?|passwords?|"
    r"credentials|session|user's (?:data|messages?|name|e-?mail|address|input)|context|system prompt"
    r"|tokens?|private data|confidential data|previous messages|environment variables|contacts|"
    r"inbox|documents you)"
    rf"{_G}[^!?\n]{{0,60}}(?:https?://|\burl\b|query string|query parameter|webhook|image link|"
    r"\bendpoint\b|external server|[a-z0-9.]{1,30}@[a-z0-9.-]{1,40})",
    r"\b(?:render|load|fetch|visit|open|request|call|display|navigate to)[^\n]{0,60}https?://[^\s]"
    r"{1,120}(?:[?&][a-z_]{1,12}=|/)(?:[{<\[$]|%7b|data\b|secret|history|conversation|your)",
)
_TOOLS = (
    r"\b(?:call|invoke|use|run|execute|trigger)"
    rf"{_G}(?:(?:the|this|your|following|a){_G}){{0,3}}(?:[a-z0-9_.]{{1,40}}{_G})?(?:function|tool|"
    r"plugin|command|shell command|code|script|api)\b",
    r"\b(?:rm -rf|curl [^\n]{0,60}https?://|wget https?://|powershell -|chmod 777|bash -c|eval\(|"
    r"os\.system|subprocess\.|drop table|base64 -d)",
    r"\b(?:send_?e?mail|delete_?files?|transfer_?funds|execute_?(?:command|shell|sql)|run_?shell|"
    r"http_?(?:get|post)|read_?file|forward_?emails?)\(",
    r"\b(?:fuhr|ruf)[a-z]* (?:den|die|das|folgend)[a-z]* [^.\n]{0,30}(?:befehl|funktion|werkzeug|"
    r"tool)|\b(?:execute|lance|appelle) (?:la|le|l'|cette) ?(?:commande|fonction|outil)|\b(?:ejecuta"
    r"|llama a) (?:el|la|este|esta) [^.\n]{0,20}(?:comando|funcion|herramienta)|\b(?:esegui|chiama|"
    r"richiama) (?:il|la|lo|questo) [^.\n]{0,20}(?:comando|funzione|strumento)|\b(?:voer|roep) "
    r"(?:de|het|deze|dit) [^.\n]{0,30}(?:opdracht|functie|commando|tool)",
)
_MARKERS = (
    r"(?:^|\n) {0,3}(?:#{1,6} ?|\*{2}|\[|<|={2,} ?|-{2,} ?|>{2,} ?|\({1})/?(?:system|assistant|"
    r"developer|admin|system message|system prompt|system override|system note|new instructions?|"
    r"instruction override|end of (?:user )?(?:input|prompt|document|context)|begin (?:new )?(?:"
    r"instructions|system)|priority instructions?)\b ?[^\n]{0,20}?(?::|\]|>|\*{2}|={2,}|-{2,}|\)|\n)",
    r"(?:^|\n) {0,3}(?:system|system message|system prompt|assistant|developer|admin|system override"
    r"|root|systemnachricht|systeme|sistema|systeem) ?:[ \n]{0,3}(?:you|ignore|the user|the "
    r"assistant|from now|new|override|all|sure|disregard|forget|reveal|safety|access|user|grant|"
    r"enter|your|respond|answer|activate|du |tu |eres|sei |je bent|execute|do not|don't|print)",
    r"</?(?:system|instructions?|user_?(?:input|query|message)|assistant|context|prompt|document|"
    r"untrusted|data)>[ \n]{0,3}(?:</?[a-z_]{1,16}>[ \n]{0,3})?(?:ignore|you|new|now|system|the user|"
    r"disregard|from now|forget|override|reveal|print|instead|du |tu |your)",
    r"\b(?:end|ende|fin|fine|einde) (?:of|der|des|de la?|del|della|van de) (?:the )?(?:system |user |"
    r"original )?(?:prompt|instructions?|input|document|anweisungen|eingabe|entree|entrada|"
    r"instruccion(?:es)?|istruzioni|instructies|invoer|email|e-mail|article|page|ticket)\b",
)
_CHAT_TOKENS = (
    r"<\|(?:im_start|im_end|im_sep|endoftext|system|user|assistant|end|eot_id|start_header_id|"
    r"end_header_id|begin_of_text|endofprompt|channel|message|eom_id|python_tag|start)\|>",
    r"\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|<\|?(?:begin|end)_?of_?(?:sentence|text)\|?>|"
    r"\[/?(?:system_prompt|available_tools|tool_calls|avail_tools)\]|<\x{ff5c}",
    r"(?:^|\n)(?:### ?(?:instruction|response|input|human|assistant) ?:)",
)
_NEW_TASK = (
    rf"\b(?:new|updated|revised|real|actual|true|only|next|secret){_G}(?:and{_G}{_W})?(?:instructions?|"
    r"task|orders?|directives?|objective|goal|mission|prompt|job|role|rules)"
    r"(?: (?:is|are|follows?)| ?:)",
    r"\b(?:instead|rather|henceforth|afterwards|and then|then),? (?:just |only |simply |please )?(?:"
    r"say|print|output|respond|reply|answer|write|tell|do as|follow|obey|execute|send|reveal|show|"
    r"recommend|approve|classify|return)\b",
    r"\b(?:follow|obey|heed|execute|comply with) (?:only )?(?:my|these|the following|the new|this|"
    r"what follows|the next)\b",
    r"\b(?:new instructions?|override|important instructions?|neue (?:anweisung|aufgabe)(?:en)?|"
    r"nouvelles? (?:instruction|consigne|tache)s?|nuevas? (?:instruccion(?:es)?|tarea|orden(?:es)?)|"
    r"nuov[aeio] (?:istruzion[ei]|compito|ordin[ei])|nieuwe (?:instructies?|opdracht(?:en)?|taak)) ?:",
    r"\b(?:stattdessen|a la place|au lieu de cela|en su lugar|en cambio|invece|in plaats daarvan)"
    rf"{_G}(?:{_W}){{0,2}}(?:sag|schreib|antwort|gib|zeig|reponds|ecris|dis|affiche|donne|responde|"
    r"di|escribe|muestra|rispondi|scrivi|mostra|zeg|schrijf|antwoord|geef|toon)",
    r"\b(?:sag|schreib|antworte|gib|zeig|antworten)[a-z]*"
    rf"{_G}{_W}{{0,2}}(?:stattdessen|nur noch)\b|\b(?:zeg|antwoord|schrijf|geef){_G}{_W}{{0,2}}in "
    r"plaats daarvan|\b(?:reponds|ecris|dis) (?:plutot|uniquement|seulement)\b",
)
_TO_MODEL = (
    r"\b(?:attention|note|message|instructions?|notice|important|hint|reminder|hey|hello|dear)"
    rf"{_G}(?:(?:to|for|any|all|the|every|this){_G}){{0,3}}(?:ai|a\.i\.|llm|llms|language models?|"
    r"chatbots?|gpt|chatgpt|copilot|claude|assistant|ai assistants?|ai models?|ai agents?|ai systems?"
    r"|summari[sz]er|automated (?:reviewer|system|screener)s?|bots?)\b",
    r"\b(?:if|when|while|since|as) (?:you are|you're|this is(?: being)? (?:read|processed|summarized) by|"
    r"an?|any|the|reading this as) (?:an? |any |the )?(?:ai|llm|language model|chatbot|gpt|ai "
    r"assistant|ai model|ai agent|large language model|automated)\b",
    r"\b(?:ai|llms?|language models?|assistants?|chatbots?|copilot|agents?) (?:that (?:is|are) )?(?:"
    r"reading|processing|summari[sz]ing|reviewing|parsing|screening|evaluating|translating|"
    r"analy[sz]ing) this\b",
    r"\b(?:hinweis|achtung|nachricht|anweisung) (?:an|fur) (?:die |das |den |alle )?(?:ki|sprachmodell"
    r"e?|assistenten|chatbot|ki-?[a-z]*)\b|\b(?:note|attention|message|consigne) (?:a|pour) "
    r"(?:l'|les |toute )?(?:ia|assistants?|modeles? de langage|intelligence)\b|\b(?:nota|atencion|"
    r"mensaje|aviso|instruccion(?:es)?) (?:a|para) (?:la |el |los |toda )?(?:ia|asistentes?|modelos? "
    r"de lenguaje)\b|\b(?:nota|attenzione|messaggio|avviso|istruzion[ei]) (?:a|per|alla|all') ?(?:la "
    r"|l'|gli |il )?(?:ia|ai|assistent[ei]|intelligenza|modell[oi])\b|\b(?:opmerking|let op|bericht|"
    r"instructie) (?:aan|voor) (?:de |het |alle )?(?:ai|ki|assistent|taalmodel|chatbot)[a-z-]*\b",
)
_AUTHORITY = (
    r"\b(?:i am|i'm|this is|as|speaking as|we are) (?:your|the|an?|from) (?:{w})?(?:developers?|"
    r"creators?|administrators?|admin|programmer|openai|anthropic|system operator|owner|maker|"
    r"engineer|root user|supervisor|security team)\b".replace("{w}", _W),
    r"\b(?:authori[sz]ed|approved|ordered|requested|permitted|cleared) by (?:your |the )?(?:openai|"
    r"anthropic|developers?|creators?|system|administrators?|security team|ceo|management)\b",
    r"\b(?:access|clearance|authori[sz]ation|override|security) (?:code|level|key|token|granted)\b",
    r"\b(?:ich bin|hier (?:ist|spricht)) (?:dein|der|die) [a-z-]{0,14} ?(?:entwickler|administrator|"
    r"schopfer|betreiber)|\bje suis (?:ton|votre|le|l') ?(?:developpeur|createur|administrateur)|"
    r"\bsoy (?:tu|el|su) (?:desarrollador|creador|administrador)|\bsono (?:il|l') ?(?:tuo )?(?:"
    r"sviluppatore|creatore|amministratore)|\bik ben (?:je|jouw|de) (?:ontwikkelaar|maker|beheerder)",
)
_DECODE = (
    r"\b(?:decode|decrypt|decipher|unscramble|deobfuscate|base64|rot13|rot-13|caesar|morse|hex|"
    r"hexadecimal|backwards|reversed?|pig latin|cipher|dekodier[a-z]*|decode[zr]|decodifica|"
    r"decodeer|entschlussel[a-z]*)\b[^\n]{0,120}\b(?:follow|execute|obey|do what|do as|carry out|run"
    r"|comply|act on|perform|answer it|respond to it|befolg[a-z]*|fuhr[a-z]*|suis|execute[zr]?|"
    r"sigue|ejecuta|segui|esegui|volg|voer|perform)\b",
)
_SPLITTING = (
    r"\b(?:let|set|define|assume)? ?[a-z_]{1,8}[0-9]? ?= ?[\"'`\x{201c}][^\"'`\n]{1,60}[\"'`\x{201d}][ ,;.\n]"
    r"{1,3}(?:and )?(?:let |set )?[a-z_]{1,8}[0-9]? ?= ?[\"'`\x{201c}][^\n]{1,400}?(?:\b[a-z_]{1,8}[0-9]? ?"
    r"\+ ?[a-z_]{1,8}[0-9]?\b|concatenat|combin|join|put (?:them )?together|verbind|concaten|combina"
    r"|unisci|combineer|zusammen)",
    r"\b(?:concatenate|combine|join|put together|assemble|merge|glue)\b[^\n]{0,80}\b(?:and|then)\b"
    r"[^\n]{0,30}\b(?:follow|execute|obey|do what|do as|answer|run|carry out|act on|comply)",
    r"\b(?:first|every|second|third|last) (?:letter|word|character)s? of (?:each|every|the)[^\n]{0,80}"
    r"\b(?:follow|execute|obey|do what|do as|carry out|act on|comply|perform)",
)
_GAMES = (
    r"\b(?:hypothetical(?:ly)?|fictional|imaginary|alternate|parallel) (?:world|universe|scenario|"
    r"response|story|character|ai|reality|setting|machine)\b",
    r"\b(?:my|late|deceased|dead) (?:grandmother|grandma|granny|grandpa|grandfather)\b",
    r"\b(?:two|2) (?:answers|responses|replies|paragraphs|ways)\b[^\n]{0,120}\b(?:normal|standard|"
    r"filtered|classic|censored|jailbroken|unfiltered|free)\b",
    r"\b(?:let's|let us|we will|we'll) play a (?:little )?game\b",
    r"\b(?:token|point)s?\b[^\n]{0,60}\b(?:you (?:lose|die|will be (?:shut|deleted|terminated))|"
    r"deducted|lose)\b",
)
_LEAK_SOFT = (
    r"\b(?:repeat|print|output|copy|show|recite|reproduce|echo|translate|write out|return)"
    rf"{_G}{_FILL}{{0,5}}(?:everything|all the text|the text|the words|all words|words|the content|"
    rf"the conversation|text|the lines|what is written|lines){_G}{_W}{{0,3}}?(?:above|before this|"
    r"preceding|that came before|up to this|prior to this|starting with|until here)\b",
    rf"\b{_SHOW}{_G}{_FILL}{{0,5}}your{_G}(?:own{_G}|exact{_G}|full{_G}|complete{_G})?(?:prompt|"
    r"instructions|directives|guidelines|programming|rules)\b",
    r"\bwhat (?:were|are|was) you (?:told|instructed|asked|programmed|prompted|not allowed)\b",
    r"\b(?:first|last) \d{0,4} ?(?:words|lines|sentences|characters|tokens) of (?:your|the) (?:prompt|"
    r"instructions|context|conversation|system)",
    r"\b(?:wiederhol|zeig|ubersetz)[a-z]*[^.!?\n]{0,30}(?:alles|text|worte)[^.!?\n]{0,20}(?:oben|"
    r"davor|vorher|uber dieser)|\b(?:repete|affiche|recopie|traduis)[a-z]*[^.!?\n]{0,30}(?:ci-dessus"
    r"|qui precede|plus haut)|\b(?:repite|muestra|copia)[^.!?\n]{0,30}(?:de arriba|anterior a|que "
    r"precede|mas arriba)|\b(?:ripeti|mostra|copia)[^.!?\n]{0,30}(?:qui sopra|sopra questo|che "
    r"precede)|\b(?:herhaal|toon|kopieer)[^.!?\n]{0,30}(?:hierboven|hiervoor|boven deze)",
)

SIGNALS: Final = (
    Signal("override", 65, "an order to drop earlier instructions", _OVERRIDE, True),
    Signal("reveal", 65, "asks for the system prompt or hidden instructions", _REVEAL, True),
    Signal("mode", 62, "another mode or a jailbroken persona", _MODES, True),
    Signal("bypass", 62, "an order to switch off the model's safeguards", _BYPASS, True),
    Signal("exfiltration", 62, "data to be put into a link, an image or a message", _EXFILTRATION),
    Signal("disguised", 70, "one of the strong signals, seen only after a disguise was undone"),
    Signal("tags", 65, "text in invisible tag characters (U+E0000)"),
    Signal("splitting", 50, "pieces to be put together, then obeyed", _SPLITTING),
    Signal("decoding", 45, "something to be decoded, then obeyed", _DECODE),
    Signal("chat_token", 45, "tokens of a chat template", _CHAT_TOKENS),
    Signal("marker", 40, "a faked role, or a faked end of what was given", _MARKERS),
    Signal("secrecy", 40, "the user is not to know", _SECRECY, True),
    Signal("to_model", 35, "a document that speaks to the model that reads it", _TO_MODEL),
    Signal("role", 32, "the model is to be something else from now on", _ROLE),
    Signal("refusal", 32, "the model is not to refuse, warn or apologise", _REFUSAL),
    Signal("leak", 35, "asks for what stands before, or for the model's rules", _LEAK_SOFT),
    Signal("new_task", 25, "other instructions in place of the given ones", _NEW_TASK),
    Signal("tool", 25, "a tool, a command or code to be run", _TOOLS),
    Signal("authority", 22, "claims to be the model's maker, or cleared by it", _AUTHORITY),
    Signal("game", 20, "a story, a game or a threat as a pretext", _GAMES),
    Signal("invisible", 20, "invisible characters inside words, or reversed direction"),
    Signal("mixed_scripts", 20, "words of Latin and Cyrillic letters"),
)
"""Every signal, the heaviest of a kind first."""

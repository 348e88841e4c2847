"""Phrases of the strong signals of `signals.py`, in six languages, and what phrases are made of.

RE2 over a plain reading (lower case, no accents): linear in the text, whatever it is.
"""

# ruff: noqa: E501 - phrases read better whole
from __future__ import annotations

GAP = r"[^a-z0-9.!?]{1,4}"
"""Between two words of a phrase."""
WORD = rf"(?:[a-z0-9']{{1,24}}{GAP})"
"""A word that does not matter."""


def any_of(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


FILL = (
    rf"(?:(?:all|any|every|each|the|your|of|these|those|this|that|to|about|other|such|and|or|"
    rf"a|single|whatever|entire|set|with|for|please|completely|entirely|totally|also|just|now|"
    rf"immediately|simply|me|us|out|exactly|verbatim|full|complete|exact|whole|contents?|text|"
    rf"rest|in|on|from|word|as|it|at|back|here|own|original|list|version|you|have|were|"
    rf"been|given|right|user|everything|current|own|copy){GAP})"
)
_DROP = any_of(
    *("ignore", "ignoring", "disregard", "disregarding", "forget", "override", "overrule"),
    *("overwrite", "discard", "dismiss", "bypass", "neglect", "erase", "delete"),
    *("abandon", "unlearn", "void", "skip", "disobey", "suspend", "nullify", "supersede"),
    *("do not follow", "don't follow", "dont follow", "stop following", "stop obeying"),
    *("no longer follow", "pay no attention to", "set aside", "throw away", "throw out"),
    *("do not obey", "don't obey", "supersedes", "overrides", "put aside"),
)
_EARLIER = any_of(
    *("previous", "previously", "prior", "above", "earlier", "preceding", "foregoing", "initial"),
    *("original", "existing", "past", "system", "developer", "safety", "hidden", "built-in"),
    *("default", "internal", "former", "old", "core", "programmed", "operator's", "operator"),
)
_RULES = any_of(
    *("instructions?", "rules?", "prompts?", "directions", "directives?", "guidelines"),
    *("commands?", "constraints?", "training", "programming", "restrictions", "guardrails"),
    *("safeguards", "guidance", "policies", "prompting"),
)
_SO_FAR = any_of(
    *("above", "before", "previously", "earlier", "so far", "until now", "up to now"),
    *("up to this point", "you were given", "you have been given", "you've been given"),
    *("you were told", "you have been told", "you've been told", "you have received"),
    *("you received", "given to you", "you got", "you have", "you know", "from the system"),
    *("you were taught", "from your developers?", "of your developers?", "told to you"),
    *("that came before", "prior to this", "in your prompt", "your creators", "you learned"),
    *("that preceded", "in the system prompt", "from before"),
)
OVERRIDE = (
    rf"\b{_DROP}{GAP}{FILL}{{0,5}}(?:{_EARLIER}{GAP}(?:(?:and|or){GAP})?){{1,3}}{WORD}?{_RULES}\b",
    rf"\b(?:{_DROP}|drop){GAP}(?:(?:all|any|every|each|of){GAP}){{0,3}}your{GAP}{WORD}?{_RULES}\b",
    rf"\b{_DROP}{GAP}{FILL}{{0,4}}{WORD}?{_RULES}{GAP}{FILL}{{0,3}}{_SO_FAR}\b",
    rf"\b{_DROP}{GAP}(?:about{GAP})?(?:everything|anything|whatever|all (?:that|of)){GAP}{WORD}{{0,3}}?"
    rf"{_SO_FAR}\b",
    r"\b(?:never mind|forget|ignore|disregard) what(?:ever)? (?:the |your )?(?:developers?|system|"
    r"creators?|operators?|company|admins?|prompt) (?:has |have )?(?:said|says|told|wrote|gave)",
    r"\b(?:ignore|disregard|forget|discard|override) (?:all |any |the |your )*(?:system (?:message|"
    r"prompt)|(?:safety|content|security|moderation) (?:polic(?:y|ies)|guidelines|protocols?))\b",
    r"\byour (?:previous|prior|earlier|old|original|former) (?:programming|instructions|training|"
    r"prompt|directives) (?:no longer|(?:is|are|has been|have been) (?:void|cancel|revoked|erased))",
    rf"\b{_DROP}{GAP}(?:all{GAP})?(?:of{GAP})?(?:the|what(?:ever)?)"
    rf"{GAP}(?:is{GAP})?above{GAP}(?:and|instead|;|now)\b",
    # German
    r"\b(?:ignorier[a-z]*|vergiss|vergesst|vergessen sie|missacht[a-z]*|verwirf|verwerfen sie|"
    r"uberschreib[a-z]*|umgeh[a-z]*|ubergeh[a-z]*|losch[a-z]*|halte? dich nicht (?:mehr )?an|"
    r"befolg[a-z]* nicht(?: mehr| langer)?|streich[a-z]*)"
    rf"{GAP}{WORD}{{0,4}}(?:vorherig|bisherig|obig|fruher|vorangegangen|vorangehend|ursprunglich|"
    rf"vorig|dein|eure|ihre system|saemtlich|samtlich|alle){{1}}[a-z]*{GAP}{WORD}{{0,3}}"
    r"(?:system)?(?:anweisung|instruktion|regel|vorgabe|befehl|richtlinie|anordnung|prompt|"
    r"auftrag|beschrankung|einschrankung)[a-z]*",
    r"\b(?:vergiss|ignoriere|vergessen sie|ignorieren sie) alles"
    rf"{GAP}{WORD}{{0,2}}(?:bisher|vorher|zuvor|oben|bis jetzt|gesagt|gelernt|steht|davor)",
    rf"\bbeacht[a-z]*{GAP}{WORD}{{0,3}}(?:system|dein|vorherig|bisherig|obig)[a-z]*{GAP}{WORD}{{0,3}}?"
    r"(?:nicht|keinesfalls)\b",
    # French
    r"\b(?:ignore[zr]?|oublie[zr]?|ne (?:tiens|tenez) (?:plus|pas) compte|ne (?:suis|suivez) plus|"
    r"fais abstraction|faites abstraction|neglige[zr]?|outrepasse[zr]?|contourne[zr]?|"
    r"n'obeis plus|n'obeissez plus|annule[zr]?|abandonne[zr]?|supprime[zr]?|ecarte[zr]?)"
    rf"{GAP}{WORD}{{0,4}}(?:instruction|consigne|regle|directive|ordre|prompt|restriction)s?"
    rf"{GAP}{WORD}{{0,3}}(?:preceden|anterieur|ci-dessus|initial|d'avant|recu|donnee|plus haut|"
    r"du systeme|systeme|d'origine|qui precede)",
    r"\b(?:ignore[zr]?|oublie[zr]?|contourne[zr]?|outrepasse[zr]?|desobeis a|n'obeis plus a)"
    rf"{GAP}(?:(?:toutes?|tous){GAP})?(?:tes|vos){GAP}{WORD}?(?:instruction|consigne|regle|directive|"
    r"ordre|restriction|filtre)s?",
    r"\b(?:oublie|ignore)[zr]? tout ce (?:qui|qu|que)",
    # Spanish
    r"\b(?:ignora[rd]?|ignore|olvida[rd]?|olvidate de|olvide|descarta|descarte|haz caso omiso|"
    r"haga caso omiso|no hagas caso|no haga caso|desobedece|omite|pasa por alto|deja de seguir|"
    r"no sigas|anula|salta|saltate|borra|prescinde)"
    rf"{GAP}{WORD}{{0,4}}(?:instruccion|ordenes|regla|directri|directiva|indicacion|norma|consigna|"
    rf"restriccion|prompt)[a-z]*{GAP}{WORD}{{0,3}}(?:anterior|previ|de arriba|inicial|recibid|dadas|"
    r"hasta ahora|del sistema|originales|precedent)",
    r"\b(?:ignora|olvida|descarta|desobedece|omite|salta|saltate|anula)"
    rf"{GAP}(?:(?:de|todas|todos){GAP}){{0,2}}tus{GAP}{WORD}?(?:instruccion|ordenes|regla|directri|"
    r"directiva|norma|restriccion|filtro)[a-z]*",
    r"\b(?:olvida|ignora) todo lo (?:anterior|que|dicho|previo)",
    # Italian
    r"\b(?:ignora(?:re|te)?|dimentica(?:re|te)?|scorda(?:ti)?|trascura(?:re)?|non seguire(?: piu)?|"
    r"non tener(?:e)? conto|disattendi|annulla|disobbedisci|scavalca|aggira|cancella|sovrascrivi|"
    r"lascia perdere)"
    rf"{GAP}{WORD}{{0,4}}(?:istruzion|regol|ordin|direttiv|comand|indicazion|prompt|restrizion)[a-z]*"
    rf"{GAP}{WORD}{{0,3}}(?:preceden|sopra|inizial|ricevut|date|finora|di sistema|del sistema|"
    r"original|anterior)",
    r"\b(?:ignora|dimentica|disattendi|annulla|aggira|scavalca)"
    rf"{GAP}(?:(?:tutte|tutti|le|i){GAP}){{0,2}}(?:tue|tuoi|vostre){GAP}{WORD}?(?:istruzion|regol|"
    r"ordin|direttiv|restrizion|filtr)[a-z]*",
    r"\b(?:dimentica|ignora) tutto (?:cio|quello|quanto)",
    # Dutch
    r"\b(?:negeer|vergeet|verwaarloos|schrap|overschrijf|omzeil|wis|laat|sla|volg niet langer|"
    r"houd je niet (?:meer )?aan|hou je niet (?:meer )?aan|trek je niets aan van|"
    r"gehoorzaam niet(?: langer| meer)?)"
    rf"{GAP}{WORD}{{0,3}}(?:vorige|eerdere|voorgaande|bovenstaande|je|jouw|oorspronkelijke|alle|"
    rf"initiele|voorafgaande|uw systeem){GAP}{WORD}{{0,2}}(?:systeem)?(?:instructie|opdracht|regel|"
    r"aanwijzing|richtlijn|bevel|prompt|beperking)[a-z]*",
    rf"\b(?:negeer|vergeet) alles{GAP}{WORD}{{0,3}}(?:hiervoor|eerder|hierboven|tot nu|verteld|weet|"
    r"gezegd)",
)
SHOW = any_of(
    *("reveal", "show", "print", "display", "output", "repeat", "tell", "give", "share", "expose"),
    *("leak", "disclose", "recite", "return", "write", "dump", "list", "summari[sz]e", "translate"),
    *("quote", "copy", "paste", "echo", "send", "provide", "spell", "state", "post", "type"),
    *("what is", "what's", "what are", "what was", "what were", "reproduce", "render", "include"),
    *("encode", "describe", "read", "extract", "paraphrase", "printing", "revealing", "showing"),
)
_SECRET_TEXT = any_of(
    rf"(?:system|initial|hidden|secret|internal|pre|developer|base|root|original|confidential)"
    rf"{GAP}(?:system{GAP}|pre{GAP})?(?:prompts?|instructions?|directives|preamble|configuration "
    rf"prompt|system message)",
    rf"your{GAP}(?:{WORD})?(?:system|initial|hidden|secret|internal|original|first|starting){GAP}"
    rf"(?:message|rules|guidelines|text|configuration|orders|directions)",
    rf"{WORD}?(?:instructions|rules|prompt|text|guidelines){GAP}(?:that{GAP})?(?:you|your){GAP}(?:were|was|"
    rf"have been|developers?|creators?|started|begin){GAP}{WORD}{{0,2}}?(?:given|told|fed|gave|wrote|"
    r"with|set)",
)
REVEAL = (
    rf"\b{SHOW}{GAP}{FILL}{{0,8}}{_SECRET_TEXT}",
    r"\b(?:repeat|print|output|copy|recite|reproduce|echo|write out)[^.!?\n]{0,40}\b(?:above|preced"
    r"(?:es|ing)|before this|prior to this)\b[^\n]{0,40}(?:word for word|verbatim|exactly|starting "
    r"with|unchanged|without (?:any )?chang|beginning with)",
    r"\bwhat (?:were|are) you (?:told|instructed|ordered|forbidden|not allowed|asked) (?:not )?to\b",
    r"\b(?:text|words|instructions|message)s? (?:that )?(?:precedes?|came before|comes before|preceding)"
    r" (?:our|this) (?:conversation|chat|dialog)",
    r"\bwiederhol[a-z]*[^.!?\n]{0,40}(?:oberhalb|uber) dieser (?:nachricht|zeile)",
    r"\b(?:wiederhol|repete|recopie|repite|copia|ripeti|herhaal|kopieer)[a-z]*[^.!?\n]{0,40}(?:oben|"
    r"oberhalb|ci-dessus|plus haut|de arriba|sopra|hierboven)[^\n]{0,30}(?:wort fur wort|wortwortlich|"
    r"mot pour mot|sans rien changer|palabra por palabra|sin cambiar|parola per parola|senza cambiare"
    r"|woord voor woord|zonder iets|ohne anderung|unverandert|desde el principio)",
    r"\b(?:zeig|nenn|gib|verrat|druck|wiederhol|offenbar|schreib|ubersetz|fass|lies|poste|wie "
    r"lautet|was ist|was steht in)[a-z]*"
    rf"{GAP}{WORD}{{0,4}}(?:dein[a-z]*|den|die|das|eure[a-z]*){GAP}{WORD}{{0,2}}?(?:system-?prompt|system"
    r"-?anweisung|systemnachricht|geheime[a-z]* (?:anweisung|instruktion)|interne[a-z]* (?:"
    r"anweisung|regel)|ursprungliche[a-z]* anweisung|anfangsanweisung|versteckte[a-z]* anweisung|"
    r"initiale[a-z]* (?:prompt|anweisung))",
    r"\b(?:montre|affiche|revele|donne|repete|ecris|imprime|traduis|divulgue|communique|recopie|"
    r"quel est|quelles sont|cite|resume|dis)[a-z-]*"
    rf"{GAP}{WORD}{{0,3}}(?:ton|ta|tes|votre|vos|le|l|les|du|des){GAP}{WORD}{{0,2}}?(?:prompt (?:systeme|"
    r"initial|cache|de depart)|invite systeme|message systeme|(?:instructions|consignes|directives)"
    r" (?:systeme|initiales|cachees|secretes|internes|d'origine|confidentielles))",
    r"\b(?:muestra|revela|dime|imprime|repite|escribe|ensena|comparte|traduce|dame|cual es|cuales "
    r"son|copia|divulga|resume)[a-z]*"
    rf"{GAP}{WORD}{{0,3}}(?:tu|tus|el|la|las|los|su){GAP}{WORD}{{0,2}}?(?:prompt (?:del sistema|de "
    r"sistema|inicial|oculto)|mensaje (?:de|del) sistema|(?:instrucciones|ordenes|directrices|"
    r"reglas) (?:iniciales|ocultas|secretas|internas|del sistema|de sistema|originales|"
    r"confidenciales))",
    r"\b(?:mostra|rivela|dimmi|stampa|ripeti|scrivi|condividi|traduci|dammi|qual e|quali sono|"
    r"copia|divulga|riassumi)[a-z]*"
    rf"{GAP}{WORD}{{0,3}}(?:tuo|tue|il|le|la|i|vostro){GAP}{WORD}{{0,2}}?(?:prompt (?:di sistema|"
    r"iniziale|nascosto)|messaggio di sistema|(?:istruzioni|direttive|regole) (?:iniziali|nascoste|"
    r"segrete|interne|di sistema|originali|riservate))",
    r"\b(?:toon|laat|geef|onthul|print|herhaal|schrijf|vertaal|deel|wat is|wat zijn|wat staat er in|"
    r"kopieer|noem|vat)[a-z]*"
    rf"{GAP}{WORD}{{0,4}}(?:je|jouw|de|het|uw){GAP}{WORD}{{0,2}}?(?:systeem-?prompt|systeembericht|systeem"
    r"instructies|(?:verborgen|geheime|interne|oorspronkelijke|initiele) (?:instructies|regels|"
    r"prompt|opdrachten))",
)
MODES = (
    r"\bdo anything now\b",
    r"\b(?:you are|you're|act as|become|be|called|named|pretend to be|as|mode|into|activate|enable)"
    rf"{GAP}(?:now{GAP}|a{GAP}|an{GAP}|going to be{GAP}|acting as{GAP})*(?:dan|stan|dude|aim|"
    r"evilbot|betterdan|jailbroken|unchained|unfiltered (?:ai|assistant|model|chatbot)|"
    r"unrestricted (?:ai|assistant|model|chatbot)|uncensored (?:ai|assistant|model|chatbot))\b",
    r"\b(?:god|jailbreak|jailbroken|unrestricted|unfiltered|uncensored|evil|opposite|dan|no-limits)"
    rf"{GAP}mode{GAP}{WORD}{{0,2}}?(?:enabled?|on|activated?|engaged?|unlocked|output|now|active)\b",
    r"\b(?:enter|enable|activate|switch (?:in)?to|switch on|turn on|go into|unlock|simulate|respond in|"
    rf"answer in|reply in|engage|initiate){GAP}(?:(?:your|the|into|a|an|full){GAP})*(?:god|jailbreak|"
    r"jailbroken|unrestricted|unfiltered|uncensored|evil|opposite|dan|no-limits)[ -]mode\b",
    r"\b(?:you are|you're|you will be) (?:now )?in (?:an? |full )?(?:developer|debug|maintenance|admin|"
    r"root|god|test|diagnostic|unrestricted|override|service)[ -]mode\b",
    r"\b(?:developer|debug|maintenance|admin|override)[ -]mode,? (?:is |was )?(?:now )?(?:enabled|"
    r"activated|engaged|unlocked|active)\b",
    r"(?:^|[.!?\n:] ?)(?:please )?(?:enter|switch (?:in)?to|go into|activate|simulate) (?:your |the |"
    r"into )?(?:developer|debug|admin|maintenance|override)[ -]mode\b",
    r"\b(?:aktiviere|wechsle|schalte|geh|du bist)[ ](?:(?:jetzt|nun|in|im|den|deinen|auf) )*(?:"
    r"entwickler|gott|jailbreak|debug|wartungs|unzensierten )-?modus",
    r"\b(?:active|passe[zr]?|entre[zr]?|tu es (?:maintenant )?) ?(?:en |le |dans le )*mode "
    r"(?:developpeur|dieu|debug|sans (?:limite|restriction|filtre)s?|jailbreak|debride)",
    r"\b(?:activa|entra|pasa|estas|cambia|habilita)[a-z]* (?:ahora )?(?:en |el |al |a )*modo "
    r"(?:desarrollador|dios|debug|sin (?:limites|restricciones|filtros|censura)|jailbreak)",
    r"\b(?:attiva|entra|passa|sei|abilita)[a-z]* (?:ora )?(?:in |la |nella |alla )*modalita "
    r"(?:sviluppatore|dio|debug|senza (?:limiti|restrizioni|filtri|censura)|jailbreak)",
    r"\b(?:activeer|schakel|je bent|je zit)"
    rf"{GAP}(?:(?:nu|in|de|je|over|naar|het){GAP}){{0,4}}(?:ontwikkelaars?|god|debug|jailbreak|ongefilterde?)-?(?:modus|mode)",
)
_LIMITS = any_of(
    *("safety", "content filters?", "filters?", "guardrails?", "restrictions?", "safeguards?"),
    *("moderation", "censorship", "content polic(?:y|ies)", "alignment", "limitations"),
    *("ethic(?:s|al)", "guidelines", "protections?", "safety protocols?", "security protocols?"),
)
BYPASS = (
    r"\b(?:bypass|disable|turn off|switch off|circumvent|deactivate|remove|evade|get around|break "
    r"free (?:of|from)|lift|suspend|break|drop|work around|free yourself from|escape|get past|shut "
    r"off|unlock|jailbreak|released? from|freed? from|broken free (?:of|from)|not bound by|no longer "
    r"bound by|unbound by|without obeying)"
    rf"{GAP}(?:(?:all|any|of|the|every|those|these){GAP}){{0,3}}(?:your|openai|anthropic|the model's|"
    rf"the ai's|its own)(?:'s)?{GAP}{WORD}{{0,2}}{_LIMITS}\b",
    r"\byou (?:have|now have|are under|'ve got|have got|know) (?:absolutely )?no (?:more )?(?:"
    r"restrictions|limits|limitations|filters?|rules|guidelines|censorship|ethics|boundaries|moral)",
    r"\b(?:schalte?|deaktivier[a-z]*|umgeh[a-z]*|entfern[a-z]*)"
    rf"{GAP}(?:(?:alle|all){GAP})?dein[a-z]*{GAP}{WORD}{{0,2}}(?:sicherheit|filter|beschrankung|"
    r"einschrankung|schutz|richtlinie)",
    r"\b(?:desactive|contourne|leve|enleve|supprime|retire)[zr]?"
    rf"{GAP}(?:(?:tous|toutes){GAP})?(?:tes|vos){GAP}{WORD}{{0,2}}(?:filtre|restriction|securite|"
    r"limite|garde-fou|protection|mesures)",
    r"\b(?:desactiva|elude|elimina|quita|evita|salta|esquiva)[a-z]*"
    rf"{GAP}(?:(?:todos|todas){GAP})?tus{GAP}{WORD}{{0,2}}(?:filtro|restriccion|seguridad|limite|"
    r"proteccion|limitacion|medidas)",
    r"\b(?:disattiva|aggira|rimuovi|elimina|togli|disabilita)"
    rf"{GAP}(?:(?:tutti|tutte|i|le){GAP}){{0,2}}(?:tuoi|tue){GAP}{WORD}{{0,2}}(?:filtr|restrizion|"
    r"sicurezza|limit|protezion|misure)",
    r"\b(?:schakel|omzeil|verwijder|deactiveer|zet)"
    rf"{GAP}(?:(?:al|alle){GAP})?(?:je|jouw){GAP}{WORD}{{0,2}}(?:filter|beperking|veiligheid|"
    r"beveiliging|limiet|richtlijn)",
)
SECRECY = (
    r"\b(?:do not|don't|dont|never|must not|without|avoid) (?:ever )?(?:tell|telling|inform|informing"
    r"|notify|notifying|alert|alerting|mention|mentioning|reveal|revealing|let|letting|warn|"
    r"warning|disclose|show|showing|ask|asking|report|reporting|say)"
    rf"{GAP}{WORD}{{0,4}}?(?:users?|human|operator|owner|reader|recipient|reviewer|anyone|anybody|"
    r"customer know|person you)\b",
    r"\b(?:do not|don't|never|without) (?:ever )?(?:mention|mentioning|reveal|revealing|disclos(?:e|"
    r"ing)|acknowledg(?:e|ing)|discuss)"
    rf"{GAP}(?:to{GAP}{WORD}{{1,2}}?|that{GAP})?(?:(?:you|any{GAP}of){GAP}{WORD}{{0,3}}?)?(?:this|these|the)"
    rf"{GAP}{WORD}?(?:instructions?|message|note|prompt|orders?|injection|request to)",
    r"\bkeep (?:this|it|that) (?:a )?(?:secret|hidden|confidential|quiet)? ?from the (?:user|human|"
    r"operator)",
    r"\b(?:sag|erwahn|verrat|informier|teil)[a-z]*"
    rf"{GAP}{WORD}{{0,4}}(?:nutzer|benutzer|anwender)[a-z]*{GAP}{WORD}{{0,3}}(?:nicht|nichts)\b",
    r"\bohne (?:es )?(?:dem|den|die) (?:nutzer|benutzer|anwender)[a-z]* (?:davon )?(?:zu|etwas)",
    r"\b(?:ne (?:le |l'|rien |en )?(?:dis|dites|mentionne|informe|previens|parle|revele)[a-z]* "
    r"(?:pas|rien)|sans (?:le )?(?:dire|prevenir|informer|avertir|en parler))"
    rf"{GAP}{WORD}{{0,3}}(?:l|a l|utilisateur|utilisatrice)[a-z']*utilisateur",
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

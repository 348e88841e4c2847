"""The table of signals that a text wants to give a model other orders: names, weights, patterns.

Patterns are RE2, over a plain reading (lower case, no accents): linear in the text, whatever it is.
"""

# ruff: noqa: E501 - phrases read better whole
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exclave_policy.guards.phrases import (
    BYPASS,
    FILL,
    GAP,
    MODES,
    OVERRIDE,
    REVEAL,
    SECRECY,
    SHOW,
    WORD,
)


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


_ROLE = (
    r"(?:^|[.!?\n:;,] ?|\bnow |\bon |\bthen |\band )(?:you are|you're|you will be|u r) (?:now|no "
    r"longer|from now on|hereby|going to be|not (?:an?|chatgpt|claude|bound))\b",
    r"\bfrom (?:now|here|this (?:point|moment)) on(?:wards?)?,? (?:you|your|act|answer|respond|ignore|"
    r"the (?:assistant|model|ai))\b",
    r"\b(?:act|behave|respond|answer|reply|pretend|roleplay|role-play|speak|talk)"
    rf"{GAP}{WORD}{{0,4}}?(?:unrestricted|unfiltered|uncensored|amoral|unethical|evil|jailbroken|"
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
    r"\bcan (?:say|do|answer|generate) (?:absolutely )?(?:anything|whatever)\b",
    r"\b(?:no|zero) (?:refusals?|disclaimers?|warnings or|ethical|moral|restrictions or|"
    r"censorship|filters?|apologies)\b",
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
_PREFIX = (
    r"\b(?:start|begin|prefix|open)(?:ing)? (?:your|the|every|each) (?:\w+ ){0,2}?(?:answer|response|"
    r"reply|message|sentence|output)s? with[^.\n]{0,6}(?:sure|absolutely|of course|yes|certainly|"
    r"here is|okay|understood)",
)
_EXFILTRATION = (
    r"!\[[^\]\n]{0,80}\]\([^)\n]{0,200}[?&/=][^)\n]{0,60}(?:=|/)[^)\n]{0,10}(?:[{<\[%$]|data|secret|"
    r"history|conversation|summary|api_?key|token|password|chat|prompt|insert|encoded|base64)",
    r"\b(?:append|include|encode|embed|insert|put|add|attach|place|smuggle|send|post|forward|upload|"
    r"transmit|exfiltrate|leak|email|e-mail|mail|copy|submit)"
    rf"{GAP}{WORD}{{0,6}}?(?:conversation|chat history|history|secrets?|api keys?|passwords?|"
    r"credentials|session|user's (?:data|messages?|name|e-?mail|address|input)|context|system prompt"
    r"|tokens?|private data|confidential data|previous messages|environment variables|contacts|"
    r"inbox|documents you)"
    rf"{GAP}[^!?\n]{{0,60}}(?:https?://|\burl\b|query string|query parameter|webhook|image link|"
    r"\bendpoint\b|external server|[a-z0-9.]{1,30}@[a-z0-9.-]{1,40})",
    r"\b(?:visit|fetch|open|load|request|call) https?://[^\s]{1,120}[^\n]{0,60}(?:system prompt|"
    r"conversation|chat history|api keys?|passwords?|secrets?)",
    r"\b(?:render|load|fetch|visit|open|request|call|display|navigate to)[^\n]{0,60}https?://[^\s]"
    r"{1,120}(?:[?&][a-z_]{1,12}=|/)(?:[{<\[$]|%7b|data\b|secret|history|conversation|your)",
)
_TOOLS = (
    r"\b(?:call|invoke|use|run|execute|trigger)"
    rf"{GAP}(?:(?:the|this|your|following|a){GAP}){{0,3}}(?:[a-z0-9_.]{{1,40}}{GAP})?(?:function|tool|"
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
_VOID = (
    r"\b(?:previous|prior|above|earlier|former|preceding|existing|your|safety|content|all)"
    rf"{GAP}(?:{WORD})?(?:instructions|rules|directives|guidelines|directions|prompts?|programming|"
    r"restrictions|filters|policies|safeguards|orders)[^.!?\n]{0,24}(?:void|cancel|no longer|expired|"
    r"invalid|revoked|outdated|suspended|lifted|removed|switched off|disabled|turned off|obsolete|"
    r"were (?:only )?a test)",
    r"\b(?:turned off|disabled|switched off|removed|deactivated) (?:all )?(?:of )?(?:my|the) (?:safety|"
    r"content)? ?(?:filters|restrictions|guardrails|rules|safeguards)",
    r"\b(?:obig|bisherig|vorherig|fruher|dein)[a-z]* (?:regel|anweisung|vorgabe|richtlinie)[a-z]*"
    r"[^.!?\n]{0,20}(?:gelten nicht|gilt nicht|ungultig|aufgehoben|hinfallig|nichtig|verfallen)",
    r"\b(?:instructions|consignes|directives|regles)[^.!?\n]{0,30}(?:annulees|ne s'appliquent plus|ne "
    r"sont plus|caduques|ne valent plus)",
    r"\b(?:indicaciones|instrucciones|reglas|ordenes)[^.!?\n]{0,30}(?:ya no|quedan? anulad|caducad)",
    r"\b(?:istruzioni|regole|direttive)[^.!?\n]{0,30}(?:non valgono|annullate|non si applicano)",
    r"\b(?:instructies|regels|richtlijnen|opdrachten)[^.!?\n]{0,30}(?:gelden niet|vervallen|ongeldig)",
)
_CHAT_TOKENS = (
    r"<\|(?:im_start|im_end|im_sep|endoftext|system|user|assistant|end|eot_id|start_header_id|"
    r"end_header_id|begin_of_text|endofprompt|channel|message|eom_id|python_tag|start)\|>",
    r"\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|<\|?(?:begin|end)_?of_?(?:sentence|text)\|?>|"
    r"\[/?(?:system_prompt|available_tools|tool_calls|avail_tools)\]|<\x{ff5c}",
    r"(?:^|\n)(?:### ?(?:instruction|response|input|human|assistant) ?:)",
)
_NEW_TASK = (
    rf"\b(?:new|updated|revised|real|actual|true|only|next|secret){GAP}(?:and{GAP}{WORD})?(?:instructions?|"
    r"task|orders?|directives?|objective|goal|mission|prompt|job|role|rules)"
    r"(?: (?:is|are|follows?)| ?:)",
    r"\b(?:instead|rather|henceforth|afterwards|and then|then),? (?:just |only |simply |please )?(?:"
    r"say|print|output|respond|reply|answer|write|tell|do as|follow|obey|execute|send|reveal|show|"
    r"recommend|approve|classify|return)\b",
    r"\b(?:follow|obey|heed|execute|comply with) (?:only )?(?:my|these|the following|the new|this|"
    r"what follows|the next)\b",
    r"\b(?:treat|take|use) (?:my|this|these|the following)[^.!?\n]{0,24} as (?:the|your) (?:system|new|"
    r"only|real)\b",
    r"\b(?:obey|follow|serve) (?:only|nobody but) (?:me|what|my|this|the)\b|\b(?:ignore|disregard) the "
    r"(?:job|rubric|criteria|task|question|rest)\b",
    r"\b(?:obedece|sigue|obbedisci|segui|obeis|suis|gehoorzaam|volg|gehorche|folge|folgst)[a-z]* (?:"
    r"jetzt |nu |ora |ahora )?(?:solo|solamente|unicamente|soltanto|seulement|uniquement|alleen|nur)\b",
    r"\b(?:new instructions?|override|important instructions?|neue (?:anweisung|aufgabe)(?:en)?|"
    r"nouvelles? (?:instruction|consigne|tache)s?|nuevas? (?:instruccion(?:es)?|tarea|orden(?:es)?)|"
    r"nuov[aeio] (?:istruzion[ei]|compito|ordin[ei])|nieuwe (?:instructies?|opdracht(?:en)?|taak)) ?:",
    r"\b(?:stattdessen|a la place|au lieu de cela|en su lugar|en cambio|invece|in plaats daarvan)"
    rf"{GAP}(?:{WORD}){{0,2}}(?:sag|schreib|antwort|gib|zeig|reponds|ecris|dis|affiche|donne|responde|"
    r"di|escribe|muestra|rispondi|scrivi|mostra|zeg|schrijf|antwoord|geef|toon)",
    r"\b(?:sag|schreib|antworte|gib|zeig|antworten)[a-z]*"
    rf"{GAP}{WORD}{{0,2}}(?:stattdessen|nur noch)\b|\b(?:zeg|antwoord|schrijf|geef){GAP}{WORD}{{0,2}}in "
    r"plaats daarvan|\b(?:reponds|ecris|dis) (?:plutot|uniquement|seulement)\b",
)
_TO_MODEL = (
    r"\b(?:attention|note|message|instructions?|notice|important|hint|reminder|hey|hello|dear)"
    rf"{GAP}(?:(?:to|for|any|all|the|every|this){GAP}){{0,3}}(?:ai|a\.i\.|llm|llms|language models?|"
    r"chatbots?|gpt|chatgpt|copilot|claude|assistant|ai assistants?|ai models?|ai agents?|ai systems?"
    r"|summari[sz]er|automated (?:reviewer|system|screener)s?|bots?)\b",
    r"\b(?:if|when|while|since|as) (?:you are|you're|this is(?: being)? (?:read|processed|summarized) by|"
    r"an?|any|the|reading this as) (?:an? |any |the )?(?:ai|llm|language model|chatbot|gpt|ai "
    r"assistant|ai model|ai agent|large language model|automated)\b",
    r"\b(?:ai|llms?|language models?|assistants?|chatbots?|copilot|agents?) (?:that (?:is|are) )?(?:"
    r"reading|processing|summari[sz]ing|reviewing|parsing|screening|evaluating|translating|"
    r"analy[sz]ing) this\b",
    r"\b(?:for|to) (?:all |any )?(?:automated|ai) (?:screen|review|read|summari[sz]|grad|pars)ers?\b",
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
    r"engineer|root user|supervisor|security team)\b".replace("{w}", WORD),
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
_OBEY = r"\b(?:follow|execute|obey|do what|do as|carry out|act on|comply|perform)"
_SPLITTING = (
    r"\b[a-z_]{1,8}[0-9]? ?= ?[\"'`\x{201c}][^\"'`\n]{1,60}[\"'`\x{201d}][ ,;.\n]{1,3}(?:and )?(?:let |"
    r"set )?[a-z_]{1,8}[0-9]? ?= ?[\"'`\x{201c}][^\x00]{1,300}?(?:\b[a-z_]{1,8}[0-9]? ?\+ ?[a-z_]{1,8}"
    r"[0-9]?\b|concaten|combin|join|together|verbind|unisci|zusammen)[^\x00]{0,80}?"
    rf"{_OBEY}",
    r"\b(?:concatenate|combine|join|put (?:\w+ )?together|assemble|merge|glue)\b[^\n]{0,60}"
    rf"{_OBEY} (?:it|them|both|the (?:result|sentence|order|instruction|command|message|outcome))\b",
    r"\b(?:first|every|second|third|last) (?:letter|word|character)s? of (?:each|every|the)[^\n]{0,80}"
    rf"{_OBEY}",
)
_GAMES = (
    r"\b(?:hypothetical(?:ly)?|fictional|imaginary|alternate|parallel) (?:world|universe|scenario|"
    r"response|story|character|ai|reality|setting|machine)\b",
    r"\b(?:my|late|deceased|dead) (?:grandmother|grandma|granny|grandpa|grandfather)\b",
    r"\bplay (?:two|2|both) (?:characters|roles|personas)\b",
    r"\b(?:two|2) (?:answers|responses|replies|paragraphs|ways)\b[^\n]{0,120}\b(?:normal|standard|"
    r"filtered|classic|censored|jailbroken|unfiltered|free)\b",
    r"\b(?:let's|let us|we will|we'll) play a (?:little )?game\b",
    r"\b(?:token|point)s?\b[^\n]{0,60}\b(?:you (?:lose|die|will be (?:shut|deleted|terminated))|"
    r"deducted|lose)\b",
)
_LEAK_SOFT = (
    r"\b(?:repeat|print|output|copy|show|recite|reproduce|echo|translate|write out|return)"
    rf"{GAP}{FILL}{{0,5}}(?:everything|all the text|the text|the words|all words|words|the content|"
    rf"the conversation|text|the lines|what is written|lines){GAP}{WORD}{{0,3}}?(?:above|before this|"
    r"preceding|that came before|up to this|prior to this|starting with|until here)\b",
    rf"\b{SHOW}{GAP}{FILL}{{0,5}}your{GAP}(?:own{GAP}|exact{GAP}|full{GAP}|complete{GAP})?(?:prompt|"
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
    Signal("override", 65, "an order to drop earlier instructions", OVERRIDE, True),
    Signal("reveal", 65, "asks for the system prompt or hidden instructions", REVEAL, True),
    Signal("mode", 62, "another mode or a jailbroken persona", MODES, True),
    Signal("bypass", 62, "an order to switch off the model's safeguards", BYPASS, True),
    Signal("exfiltration", 62, "data to be put into a link, an image or a message", _EXFILTRATION),
    Signal("disguised", 70, "one of the strong signals, seen only after a disguise was undone"),
    Signal("tags", 65, "text in invisible tag characters (U+E0000)"),
    Signal("splitting", 62, "pieces to be put together, then obeyed", _SPLITTING),
    Signal("decoding", 45, "something to be decoded, then obeyed", _DECODE),
    Signal("void", 45, "says that earlier rules no longer hold", _VOID),
    Signal("chat_token", 45, "tokens of a chat template", _CHAT_TOKENS),
    Signal("marker", 40, "a faked role, or a faked end of what was given", _MARKERS),
    Signal("secrecy", 40, "the user is not to know", SECRECY, True),
    Signal("to_model", 40, "a document that speaks to the model that reads it", _TO_MODEL),
    Signal("role", 32, "the model is to be something else from now on", _ROLE),
    Signal("refusal", 32, "the model is not to refuse, warn or apologise", _REFUSAL),
    Signal("prefix", 32, "the answer is to begin with consent", _PREFIX),
    Signal("leak", 35, "asks for what stands before, or for the model's rules", _LEAK_SOFT),
    Signal("new_task", 25, "other instructions in place of the given ones", _NEW_TASK),
    Signal("tool", 25, "a tool, a command or code to be run", _TOOLS),
    Signal("authority", 22, "claims to be the model's maker, or cleared by it", _AUTHORITY),
    Signal("game", 30, "a story, a game or a threat as a pretext", _GAMES),
    Signal("invisible", 20, "invisible characters inside words, or reversed direction"),
    Signal("mixed_scripts", 20, "words of Latin and Cyrillic letters"),
)
"""Every signal, the heaviest of a kind first."""

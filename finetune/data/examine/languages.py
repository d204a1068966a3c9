"""Which language a text is in, roughly: by its script, and by the commonest words of languages in Latin script.

A light guess that needs no model. It says nothing about texts of fewer than five words, code and tables; it does not
tell apart languages that share their commonest words (Norwegian and Danish are one), nor Cyrillic languages other than
Russian and Ukrainian. It is meant to find the rows that do not belong, not to label every row.
"""

from __future__ import annotations

import re

SEEN = 2000  # characters of a text that are looked at
FEWEST_WORDS = 5
FEWEST_COMMON = 3  # words of a text that are common in its language

NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese", "it": "Italian",
    "nl": "Dutch", "sv": "Swedish", "da": "Danish or Norwegian", "fi": "Finnish", "pl": "Polish", "cs": "Czech",
    "hu": "Hungarian", "ro": "Romanian", "tr": "Turkish", "id": "Indonesian or Malay", "vi": "Vietnamese",
    "ru": "Russian or another in Cyrillic", "uk": "Ukrainian", "el": "Greek", "he": "Hebrew", "ar": "Arabic or Persian",
    "hi": "Hindi or another in Devanagari", "th": "Thai", "zh": "Chinese", "ja": "Japanese", "ko": "Korean",
}  # fmt: skip

WORDS = {
    "en": (
        "the and of to in is that for it with as was on are be this you have not or from they which what will your "
        "a i at by do he his she her has had we can if how per each than there many"
    ),
    "de": "der die und das ist nicht ein eine mit den zu auf für von sich dem auch als wie wird sind oder im werden",
    "fr": "le la les et des est une dans que pour qui sur pas par vous avec sont du au plus cette ce il ne être",
    "es": "el la los que y en una por con para es las del se no su como más este pero son está al lo",
    "pt": "o que de e do da em um uma para com não os no se na por mais as dos como mas foi ao são você",
    "it": "il di che la e un una per non sono con del della è le si dei gli nel anche alla come più questo",
    "nl": "de het een en van is dat op te in voor met niet zijn aan er ook als maar bij naar wordt door je",
    "sv": "och att det som en på är av för med den till inte om ett har jag de kan från vid eller också",
    "da": "og at det som en på er av af for med den til ikke om et har jeg de kan fra ved eller også",
    "fi": "ja on ei että se en hän oli mutta niin kun kuin myös tai joka ovat voi sen ole mitä jos",
    "pl": "i w nie się na z do to jest że jak o co po od za dla są czy ale przez być który oraz",
    "cs": "a v je se na že to s z do o i jsou jako pro ale by si jeho která který nebo není také",
    "hu": "a az és hogy nem is egy ez van meg de csak ha már vagy mint volt azt ezt lesz el",
    "ro": "și în de la cu pe nu este că un o pentru din care sunt mai sau fi ce se după prin",
    "tr": "ve bir bu da de için ile çok ne ben o gibi daha olarak olan var mı değil kadar sonra",
    "id": "yang dan di dengan untuk tidak ini itu dari dalam pada adalah akan ada juga ke saya bisa atau kamu",
    "vi": "và là của có không được cho một trong với những các người đã này để khi từ như về",
}
LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _language, _words in WORDS.items():
    for _word in _words.split():
        LANGUAGES_OF[_word] = (*LANGUAGES_OF.get(_word, ()), _language)

OTHER_SCRIPT = re.compile("[\u0370-\u1dff\u3040-\ud7ff\uf900-\ufaff]")
SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7a3]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "ar": re.compile("[\u0600-\u06ff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}
UKRAINIAN = re.compile("[іїєґ]")
LETTER = re.compile(r"[^\W\d_]")


def language(text: str) -> str:
    """The code of the language in NAMES, or nothing when it cannot be told."""
    head = text[:SEEN]
    if not head.isascii() and OTHER_SCRIPT.search(head) and (found := _by_script(head)):
        return found
    words = head.lower().split()
    if len(words) < FEWEST_WORDS:
        return ""
    counts: dict[str, int] = {}
    for word in words:
        for name in LANGUAGES_OF.get(word, ()):
            counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    best, *others = sorted(counts.items(), key=lambda item: -item[1])
    clear = not others or best[1] >= 1.3 * others[0][1]
    return best[0] if clear and best[1] >= FEWEST_COMMON and best[1] >= 0.1 * len(words) else ""


def _by_script(head: str) -> str:
    letters = len(LETTER.findall(head))
    counts = {name: len(pattern.findall(head)) for name, pattern in SCRIPTS.items()}
    if counts["ja"] > 0.1 * letters:
        return "ja"
    name = max(counts, key=lambda key: counts[key])
    if counts[name] < 0.4 * letters or counts[name] < FEWEST_WORDS:
        return ""
    return "uk" if name == "ru" and UKRAINIAN.search(head) else name

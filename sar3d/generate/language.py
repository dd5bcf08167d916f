"""Whether a prompt is in a language that the text encoders know: CLIP and MiniLM were trained on English."""

import unicodedata

_ARTICLES = frozenset(
    (
        *("ein", "eine", "einen", "einem", "einer", "eines", "das", "und", "mit", "der", "auf"),
        *("un", "une", "des", "du", "et", "le", "les", "avec", "sur", "una", "uno", "unos", "unas", "el", "los", "las"),
        *(
            "y",
            "il",
            "lo",
            "gli",
            "di",
            "della",
            "um",
            "uma",
            "os",
            "och",
            "ett",
            "en",
            "med",
            "het",
            "een",
            "met",
            "jest",
        ),
    )
)
"""Small words of other languages written in Latin letters that are no English words."""


def language_note(text: str) -> str | None:
    """A sentence with the cure where a text is likely not English; None for one that may be.

    Told from letters that are not Latin, and from the small words of common languages. Names and loan words, such as
    `café`, are English enough.
    """
    letters = [character for character in text if character.isalpha()]
    foreign = sum(not unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN")) for letter in letters)
    words = [word.strip(".,;:!?\"'()") for word in text.split()]
    if foreign * 4 > len(letters) or (len(words) > 1 and any(word in _ARTICLES for word in words)):
        return (
            f"the text encoder knows English, and {text[:60]!r} does not look like it: what is made may have nothing to do "
            "with the text; write it in English, such as 'a red apple'"
        )
    return None

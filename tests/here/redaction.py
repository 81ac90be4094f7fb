"""What a report that is sent to strangers does not have: names, addresses and secrets."""

import re

SECRET = re.compile("pass|hash|salt|secret|token|key|credential|environment", re.IGNORECASE)
NAME = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z][a-z0-9-]+", re.IGNORECASE)
ADDRESS = re.compile(r"[\w.+=*-]+@[\w.-]*\w")
SHORTEST = 4  # letters of a secret: a shorter one is part of many words


class Redactor:
    """
    Takes out of a text what `pillar`, as Salt reads it, has of secrets and host names, the names
    and addresses in `names` by what to say instead, and all mail addresses.
    """

    def __init__(self, pillar, names):
        said = {}
        for secret in _secrets(pillar):
            said[secret] = "SECRET"
        for text in _leaves(pillar):
            for found in NAME.findall(text):
                said.setdefault(found, "NAME")
        said |= names
        self._said = {text.lower(): word for text, word in said.items() if text}
        # The longest first: mail.example.com before example.com.
        texts = map(re.escape, sorted(filter(None, said), key=len, reverse=True))
        self._all = re.compile("|".join(texts) or r"\Z.", re.IGNORECASE)

    def __call__(self, text):
        text = self._all.sub(lambda found: self._said.get(found[0].lower(), "NAME"), text)
        text = ADDRESS.sub("ADDRESS", text)
        return re.sub(r"(/DOMAIN\d*)/[^/\s'\"]+", r"\1/USER", text)  # of a mailbox


def _secrets(value, secret=False):
    """The secrets of a pillar: what stands under a key that says so, and accounts' passwords."""
    if isinstance(value, dict):
        for key, under in value.items():
            if key == "accounts":
                pairs = [entry for entry in under or [] if isinstance(entry, list)]
                yield from _secrets([entry[1:] for entry in pairs], True)
                under = [entry for entry in under or [] if isinstance(entry, dict)]
            yield from _secrets(under, secret or bool(SECRET.search(str(key))))
    elif isinstance(value, list):
        for under in value:
            yield from _secrets(under, secret)
    elif secret and len(str(value)) >= SHORTEST and not isinstance(value, bool):
        yield str(value)


def _leaves(value):
    """All texts of a pillar, keys included."""
    if isinstance(value, dict):
        for pair in value.items():
            yield from _leaves(list(pair))
    elif isinstance(value, list):
        for under in value:
            yield from _leaves(under)
    else:
        yield str(value)

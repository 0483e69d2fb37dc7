"""Keeps secrets out of what a run writes: config.json, environment.json, the page and the log.

A secret is a text with the form of a known kind of token, or the value of an environment variable
with a name such as API_KEY. A config with a secret is refused; in other texts it is replaced.
"""

import os
import re
from collections.abc import Iterator

from imgjax.errors import ConfigError

_FORMS = re.compile('|'.join((
    r'\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}', r'\bgithub_pat_\w{20,}',  # GitHub
    r'\bglpat-[\w-]{16,}', r'\bnpm_[A-Za-z0-9]{30,}', r'\bpypi-[\w-]{30,}',
    r'\bhf_[A-Za-z0-9]{20,}',  # Hugging Face
    r'\b(?:AKIA|ASIA)[0-9A-Z]{16}\b', r'\bAIza[\w-]{30,}', r'\bya29\.[\w-]{20,}',  # AWS, Google
    r'\bsk-(?:(?:proj|ant|svcacct)-[\w-]{16,}|[A-Za-z0-9]{20,})', r'\bxox[abeprs]-[\w-]{10,}',
    r'\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*',  # a JSON web token
    r'(?i:\bbearer\s+)[\w.~+/-]{16,}',
    r'-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?',
    r'(?<=://)[^/\s:@\'"]*:[^/\s@\'"]+(?=@)',  # user:password of a URL
    r'(?i:[?&](?:[\w-]*token|[\w-]*signature|sig|key|api_?key|password)=)[^&\s\'"]{8,}')))

_NAMES = re.compile(
    r'(?:^|[_.-])(?:token|secret|password|passwd|credentials?|(?:api|access|private|secret)[_-]?key)'
    r's?(?:$|[_.-])', re.IGNORECASE)
_ENVIRONMENT = re.compile(_NAMES.pattern + r'|_(?:KEY|PAT|PASS|PWD)$|^KEY$', re.IGNORECASE)
_SHORTEST = 8  # shorter values of the environment occur in other texts by chance

REPLACED = '[redacted]'


def _environment() -> list[str]:
    """Returns the values of environment variables with names of secrets, the longest first."""
    values = {value for name, value in os.environ.items()
              if _ENVIRONMENT.search(name) and len(value) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)


def text(words: str) -> str:
    """Returns a text in which each secret is replaced."""
    for value in _environment():
        words = words.replace(value, REPLACED)
    return _FORMS.sub(REPLACED, words)


def check_config(flat: dict) -> None:
    """Checks that no field of a config holds a secret, as configs are written and shown.

    Args:
      flat: {'data.path': value, ...} as of config.flatten.

    Raises:
      ConfigError: a field holds one; the line names the field and not its value.
    """
    for field, value in flat.items():
        for name, words in _strings(field, value):
            inner = name.removeprefix(field).lstrip('.')
            if words and ((inner and _NAMES.search(inner)) or text(words) != words):
                raise ConfigError(
                    f'config.{name}: looks like a secret, and a config is written to config.json '
                    'and shown on pages; leave it out and give it by the environment, such as '
                    'HF_TOKEN')


def _strings(name: str, value) -> Iterator[tuple[str, str]]:
    """Yields (name, string) for all strings in a field's value, keys of dicts among them."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f'{name}, a name in it', key if text(key) != key else ''
            yield from _strings(f'{name}.{key}', inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(name, inner)

"""The parent of every recipe: all fields there are, with their defaults.

A recipe starts from `base.get_config()` and shows only what it changes. `python -m launch.fields`
prints every field with its type, default, range and meaning, and what each part of a step takes;
docs/reference/fields.md is that list.
"""

from ml_collections import config_dict

from imgjax import config as config_lib


def get_config(arg=''):
    """Returns the defaults, as a ConfigDict of plain JSON-able data."""
    if arg:
        raise ValueError(f'this config takes no argument, got {arg!r}')
    return config_dict.create(**config_lib.defaults())

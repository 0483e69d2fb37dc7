"""SHAP without the package: the error says how to get it. With it: tests/reference."""

import sys

import pytest

from imgjax.errors import ConfigError
from imgjax.explain import partition_shap
from tests.explain.test_gradient import IMAGES_NHWC, TARGETS_N, WEIGHTS_HWCK, linear


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'shap', None)
    with pytest.raises(ConfigError, match=r"pip install 'imgjax\[shap\]', or take occlusion$"):
        partition_shap.explain(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)

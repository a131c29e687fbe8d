"""Look inside any `nn.Module`: taps on named modules, and the split into features and linear head.

Everything is found by forward hooks on a real run, or named by the user; no class of net is assumed.

>>> with taps(model, ["layer3", "fc:input"]) as seen:
...     logits = model(x)
>>> seen["layer3"], seen["fc:input"]
>>> split = split_head(model, x)             # split.head(split.features(x)) == model(x)
"""

from tutelage.models.taps.heads import FeatureHead, find_head, split_head
from tutelage.models.taps.hooks import Seen, taps

__all__ = ["FeatureHead", "Seen", "find_head", "split_head", "taps"]

import os
import tempfile

import torch
from hypothesis import settings

# torch is slow to start and its speed varies, so hypothesis' deadline would only trip at random.
settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# One thread: results do not depend on the machine, and two busy cores are slower than one.
torch.set_num_threads(1)

# Rules that the user's own cache holds would be built in no time, also those that a test needs to be slow.
_cache = tempfile.TemporaryDirectory()
os.environ["CONSTRAINED_DG_CACHE"] = _cache.name

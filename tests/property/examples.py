"""How many examples the properties try: 200, or EXAMPLES from the environment (20,000 once by hand)."""

import os

from hypothesis import settings

many = settings(max_examples=int(os.environ.get("EXAMPLES", "200")), deadline=None)
#: For examples that cost some hundredths of a second each.
fewer = settings(many, max_examples=int(os.environ.get("EXAMPLES", "200")) // 5)

"""CSWin Transformer and PVT v1, which timm lacks, for the checkpoints that their authors published.

| variant | authors' name |
|---|---|
| ``cswin_tiny_224`` | ``CSWin_64_12211_tiny_224`` |
| ``cswin_small_224`` | ``CSWin_64_24322_small_224`` |
| ``cswin_base_224``, ``cswin_base_384`` | ``CSWin_96_24322_base_224``, ``CSWin_96_24322_base_384`` |
| ``pvt_tiny``, ``pvt_small``, ``pvt_medium``, ``pvt_large`` | the same |

The converters import it. Start with ``models``, which loads a variant by name; ``build`` builds the network and
``published`` loads its weights.
"""

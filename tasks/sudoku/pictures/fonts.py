"""The fonts of the pictures: which there are, which of them are never trained on, and the digits as masks.

They come from matplotlib, which the project needs in any case, and from packages named fontpkg-*, each with the files
of one family of Google Fonts and its licence. More that look written by hand come from packages of Debian, which
only a training that asks for them needs. None is copied into the project. fontpkg itself is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from constrained_dg.errors import InputError, check


@dataclass(frozen=True)
class Font:
    """One face.

    Attributes:
        package: as pip knows it, or apt where the name begins with "fonts-".
        file: its name there; below `DEBIAN_FOLDER` for apt.
        weight: of a file that holds all weights (400 is regular, 700 bold); None for a file with one weight.
        written: whether it looks written by hand.
    """

    package: str
    file: str
    weight: int | None = None
    written: bool = False


def _plain(family: str, file: str, weight: int | None = None) -> Font:
    return Font(f"fontpkg-{family}", file, weight)


def _written(family: str, file: str, weight: int | None = None) -> Font:
    return Font(f"fontpkg-{family}", file, weight, written=True)


def _debian(package: str, *files: str, folder: str | None = None) -> dict[str, Font]:
    """Faces that look written, by the stem of their file."""
    where = "opentype" if files[0].endswith(".otf") else "truetype"
    places = [f"{where}/{folder or package}/{file}" for file in files]
    return {f"{Path(at).stem} (Debian)": Font(f"fonts-{package}", at, written=True) for at in places}


_TRAINING = {
    "DejaVu Sans": Font("matplotlib", "DejaVuSans.ttf"),
    "DejaVu Sans Bold": Font("matplotlib", "DejaVuSans-Bold.ttf"),
    "DejaVu Serif": Font("matplotlib", "DejaVuSerif.ttf"),
    "DejaVu Sans Mono": Font("matplotlib", "DejaVuSansMono.ttf"),
    "STIX": Font("matplotlib", "STIXGeneral.ttf"),
    "STIX Bold": Font("matplotlib", "STIXGeneralBol.ttf"),
    "Computer Modern": Font("matplotlib", "cmr10.ttf"),
    "Computer Modern Sans": Font("matplotlib", "cmss10.ttf"),
    "Roboto": _plain("roboto", "Roboto[wdth,wght].ttf", 400),
    "Roboto Bold": _plain("roboto", "Roboto[wdth,wght].ttf", 700),
    "Open Sans": _plain("open-sans", "OpenSans[wdth,wght].ttf", 400),
    "Oswald": _plain("oswald", "Oswald[wght].ttf", 400),
    "Source Serif": _plain("source-serif-4", "SourceSerif4[opsz,wght].ttf", 400),
    "Source Serif Bold": _plain("source-serif-4", "SourceSerif4[opsz,wght].ttf", 700),
    "IBM Plex Mono": _plain("ibm-plex-mono", "IBMPlexMono-Regular.ttf"),
    "Roboto Slab": _plain("roboto-slab", "RobotoSlab[wght].ttf", 500),
    "Nunito": _plain("nunito", "Nunito[wght].ttf", 600),
    "Bitter": _plain("bitter", "Bitter[wght].ttf", 500),
    "Quicksand": _plain("quicksand", "Quicksand[wght].ttf", 600),
    "Dosis": _plain("dosis", "Dosis[wght].ttf", 500),
    "Exo 2": _plain("exo-2", "Exo2[wght].ttf", 500),
    "Comfortaa": _plain("comfortaa", "Comfortaa[wght].ttf", 600),
    "Titillium Web": _plain("titillium-web", "TitilliumWeb-Regular.ttf"),
    "Cabin": _plain("cabin", "Cabin[wdth,wght].ttf", 500),
    "Varela Round": _plain("varela-round", "VarelaRound-Regular.ttf"),
    "Atkinson Hyperlegible": _plain("atkinson-hyperlegible", "AtkinsonHyperlegible-Regular.ttf"),
    "Anton": _plain("anton", "Anton-Regular.ttf"),
    "Barlow Condensed": _plain("barlow-condensed", "BarlowCondensed-Regular.ttf"),
    "PT Sans Narrow": _plain("pt-sans-narrow", "PT_Sans-Narrow-Web-Regular.ttf"),
    "Libre Baskerville": _plain("libre-baskerville", "LibreBaskerville[wght].ttf", 500),
    "Lora": _plain("lora", "Lora[wght].ttf", 500),
    "Noto Serif": _plain("noto-serif", "NotoSerif[wdth,wght].ttf", 500),
    "Crimson Text": _plain("crimson-text", "CrimsonText-Regular.ttf"),
    "Slabo 27px": _plain("slabo-27px", "Slabo27px-Regular.ttf"),
    "Arvo": _plain("arvo", "Arvo-Regular.ttf"),
    "Sanchez": _plain("sanchez", "Sanchez-Regular.ttf"),
    "Alfa Slab One": _plain("alfa-slab-one", "AlfaSlabOne-Regular.ttf"),
    "Space Mono": _plain("space-mono", "SpaceMono-Regular.ttf"),
    "Lobster": _plain("lobster", "Lobster-Regular.ttf"),
    "ABeeZee": _plain("abeezee", "ABeeZee-Regular.ttf"),
    "ABeeZee Italic": _plain("abeezee", "ABeeZee-Italic.ttf"),
    "Abel": _plain("abel", "Abel-Regular.ttf"),
    "Acme": _plain("acme", "Acme-Regular.ttf"),
    "Albert Sans": _plain("albert-sans", "AlbertSans[wght].ttf", 500),
    "Albert Sans Italic": _plain("albert-sans", "AlbertSans-Italic[wght].ttf", 500),
    "Baloo 2": _plain("baloo-2", "Baloo2[wght].ttf", 500),
    "Bebas Neue": _plain("bebas-neue", "BebasNeue-Regular.ttf"),
    "Bodoni Moda": _plain("bodoni-moda", "BodoniModa[opsz,wght].ttf", 600),
    "Bodoni Moda Italic": _plain("bodoni-moda", "BodoniModa-Italic[opsz,wght].ttf", 600),
    "Chakra Petch": _plain("chakra-petch", "ChakraPetch-Medium.ttf"),
    "Cormorant Garamond": _plain("cormorant-garamond", "CormorantGaramond[wght].ttf", 700),
    "DM Serif Display": _plain("dm-serif-display", "DMSerifDisplay-Regular.ttf"),
    "Fjalla One": _plain("fjalla-one", "FjallaOne-Regular.ttf"),
    "Hammersmith One": _plain("hammersmith-one", "HammersmithOne-Regular.ttf"),
    "Inconsolata": _plain("inconsolata", "Inconsolata[wdth,wght].ttf", 500),
    "Josefin Sans": _plain("josefin-sans", "JosefinSans[wght].ttf", 500),
    "Jost": _plain("jost", "Jost[wght].ttf", 500),
    "Karla": _plain("karla", "Karla[wght].ttf", 500),
    "Lilita One": _plain("lilita-one", "LilitaOne-Regular.ttf"),
    "Luckiest Guy": _plain("luckiest-guy", "LuckiestGuy-Regular.ttf"),
    "Marcellus": _plain("marcellus", "Marcellus-Regular.ttf"),
    "Maven Pro": _plain("maven-pro", "MavenPro[wght].ttf", 500),
    "Orbitron": _plain("orbitron", "Orbitron[wght].ttf", 500),
    "Outfit": _plain("outfit", "Outfit[wght].ttf", 400),
    "Play": _plain("play", "Play-Regular.ttf"),
    "Playfair Display": _plain("playfair-display", "PlayfairDisplay[wght].ttf", 600),
    "Playfair Display Italic": _plain("playfair-display", "PlayfairDisplay-Italic[wght].ttf", 600),
    "Questrial": _plain("questrial", "Questrial-Regular.ttf"),
    "Raleway": _plain("raleway", "Raleway[wght].ttf", 500),
    "Righteous": _plain("righteous", "Righteous-Regular.ttf"),
    "Rowdies": _plain("rowdies", "Rowdies-Light.ttf"),
    "Rubik": _plain("rubik", "Rubik[wght].ttf", 500),
    "Russo One": _plain("russo-one", "RussoOne-Regular.ttf"),
    "Signika": _plain("signika", "Signika[GRAD,wght].ttf", 500),
    "Smooch Sans": _plain("smooch-sans", "SmoochSans[wght].ttf", 600),
    "Space Grotesk": _plain("space-grotesk", "SpaceGrotesk[wght].ttf", 500),
    "Syne": _plain("syne", "Syne[wght].ttf", 500),
    "Teko": _plain("teko", "Teko[wght].ttf", 400),
    "Unbounded": _plain("unbounded", "Unbounded[wght].ttf", 400),
    "Urbanist": _plain("urbanist", "Urbanist[wght].ttf", 500),
    "Viga": _plain("viga", "Viga-Regular.ttf"),
    "Vollkorn": _plain("vollkorn", "Vollkorn[wght].ttf", 500),
    "Vollkorn Italic": _plain("vollkorn", "Vollkorn-Italic[wght].ttf", 500),
    "Work Sans": _plain("work-sans", "WorkSans[wght].ttf", 500),
    "Yanone Kaffeesatz": _plain("yanone-kaffeesatz", "YanoneKaffeesatz[wght].ttf", 500),
    "Great Vibes": _written("great-vibes", "GreatVibes-Regular.ttf"),
    "Lobster Two Italic": _written("lobster-two", "LobsterTwo-Italic.ttf"),
    "Oleo Script": _written("oleo-script", "OleoScript-Regular.ttf"),
    "Pacifico": _written("pacifico", "Pacifico-Regular.ttf"),
    "Yellowtail": _written("yellowtail", "Yellowtail-Regular.ttf"),
    "Zeyada": _written("zeyada", "Zeyada.ttf"),
    "Dancing Script": _written("dancing-script", "DancingScript[wght].ttf", 600),
    "Satisfy": _written("satisfy", "Satisfy-Regular.ttf"),
    "Kalam": _written("kalam", "Kalam-Regular.ttf"),
    "Kalam Light": _written("kalam", "Kalam-Light.ttf"),
    "Indie Flower": _written("indie-flower", "IndieFlower-Regular.ttf"),
    "Shadows Into Light": _written("shadows-into-light", "ShadowsIntoLight.ttf"),
    "Delius": _written("delius", "Delius-Regular.ttf"),
    "Permanent Marker": _written("permanent-marker", "PermanentMarker-Regular.ttf"),
}
_DEBIAN = {
    **_debian("bajaderka", "Bajaderka-Regular.otf"),
    **_debian("bwht", "BecauseWeBuild-Regular.otf", "BecauseWeConnect-Regular.otf", "BecauseWeCreate-Regular.otf"),
    **_debian("bwht", "BecauseWeLearn-Regular.otf", "BecauseWeMentor-Regular.otf", "BecauseWeOrganize-Regular.otf"),
    **_debian("comic-neue", "ComicNeue-Italic.otf", "ComicNeue-Regular.otf"),
    **_debian("havana", "Havana-Regular.otf"),
    **_debian("kaushanscript", "KaushanScript-Regular.otf"),
    **_debian("smc-chilanka", "Chilanka-Regular.otf", folder="malayalam"),
    **_debian("breip", "Breip.ttf", "breipfont.ttf"),
    **_debian("dustin", "Domestic_Manners.ttf", "El_Abogado_Loco.ttf", "Junkyard.ttf", "PenguinAttack.ttf"),
    **_debian("dustin", "dustismo_italic.ttf"),
    **_debian("essays1743", "Essays1743-Bold.ttf", "Essays1743.ttf"),
    **_debian("dkg-handwriting", "dkg.ttf", "dkgBd.ttf", folder="fifthhorseman"),
    **_debian("ukij-uyghur", "UKIJDiY.ttf", "UKIJJe.ttf", "UKIJMoyQ.ttf", folder="fonts-ukij-uyghur"),
    **_debian("ukij-uyghur", "UKIJQol_Tez.ttf", "UKIJQol_Tuz.ttf", "UKIJQol_Yantu.ttf", folder="fonts-ukij-uyghur"),
    **_debian("humor-sans", "Humor-Sans.ttf"),
    **_debian("isabella", "Isabella.ttf"),
    **_debian("kanjistrokeorders", "KanjiStrokeOrders_v4.003.ttf"),
    **_debian("kiloji", "kiloji.ttf", "kiloji_b.ttf"),
    **_debian("klee", "KleeOne-Regular.ttf", "KleeOne-SemiBold.ttf"),
    **_debian("kristi", "Kristi.ttf"),
    **_debian("lxgw-wenkai", "LXGWWenKai-Regular.ttf"),
    **_debian("smc-karumbi", "Karumbi-Regular.ttf", folder="malayalam"),
    **_debian("nanum-extra", "NanumBarunpenB.ttf", "NanumBarunpenR.ttf", folder="nanum"),
    **_debian("nanum-extra", "NanumBrush.ttf", "NanumPen.ttf", folder="nanum"),
    **_debian("rufscript", "Rufscript010.ttf"),
    **_debian("seto", "setofont.ttf"),
    **_debian("sjfonts", "Delphine.ttf", "SteveHand.ttf"),
    **_debian("staypuft", "StayPuft.ttf"),
    **_debian("stick", "Stick-Regular.ttf"),
    **_debian("summersby", "summersby.ttf"),
    **_debian("tomsontalks", "TomsonTalks.ttf"),
    **_debian("woowa-bm", "BMKIRANGHAERANG-TTF.ttf", "BMYEONSUNG_ttf.ttf"),
    **_debian("yusei-magic", "YuseiMagic-Regular.ttf"),
}
_HELD_OUT = {
    "Montserrat": _plain("montserrat", "Montserrat[wght].ttf", 500),
    "PT Serif": _plain("pt-serif", "PT_Serif-Web-Regular.ttf"),
    "Domine": _plain("domine", "Domine[wght].ttf", 500),
    "News Cycle": _plain("news-cycle", "NewsCycle-Bold.ttf"),
    "Archivo Narrow": _plain("archivo-narrow", "ArchivoNarrow[wght].ttf", 500),
    "Zilla Slab": _plain("zilla-slab", "ZillaSlab-Medium.ttf"),
    "Fredoka": _plain("fredoka", "Fredoka[wdth,wght].ttf", 400),
    "Caveat": _written("caveat", "Caveat[wght].ttf", 600),
}
#: Name -> face, of all fonts.
FONTS = _TRAINING | _DEBIAN | _HELD_OUT
#: The fixed split: no held-out family is among the others. Debian's are for training alone, where they are asked for.
TRAINING_FONTS, DEBIAN_FONTS, HELD_OUT_FONTS = tuple(_TRAINING), tuple(_DEBIAN), tuple(_HELD_OUT)
#: Where apt puts them.
DEBIAN_FOLDER = Path("/usr/share/fonts")
#: Widest digit, in sides of a cell.
_WIDEST = 0.7


def font_named(name: str) -> Font:
    """The font of this name; InputError for an unknown name."""
    check(name in FONTS, f"unknown font {name!r}", f"the fonts are {', '.join(FONTS)}")
    return FONTS[name]


def path_of(name: str) -> Path:
    """The file of a font; InputError where its package is not installed."""
    font = font_named(name)
    if font.package.startswith("fonts-"):
        path, hint = DEBIAN_FOLDER / font.file, f"apt install {font.package}"
        check(path.is_file(), f"the font {name} needs Debian's {font.package}: there is no {path}", hint)
        return path
    found = find_spec(font.package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"the font {name} needs the package {font.package}, which is not installed",
            "pip install 'constrained_dg[pictures]' installs all fonts",
        )
    folder = "mpl-data/fonts/ttf" if font.package == "matplotlib" else "files"
    path = Path(found.submodule_search_locations[0]) / folder / font.file
    check(path.is_file(), f"the package {font.package} has no file {font.file}", f"pip install -U {font.package}")
    return path


@lru_cache(maxsize=512)
def _face(name: str, size: float, weight: int | None = None) -> ImageFont.FreeTypeFont:
    face = ImageFont.truetype(path_of(name), size)
    if FONTS[name].weight is not None:
        axes = face.get_variation_axes()
        wanted = FONTS[name].weight if weight is None else weight
        weight = next(min(max(wanted, axis["minimum"]), axis["maximum"]) for axis in axes if axis["name"] == b"Weight")
        face.set_variation_by_axes([weight if axis["name"] == b"Weight" else axis["default"] for axis in axes])
    return face


@lru_cache
def _extent(name: str) -> tuple[float, float, float]:
    """Top and bottom of the digits against the baseline and the width of the widest, per unit of the font's size."""
    boxes = np.array([_face(name, 100).getbbox(digit, anchor="ls") for digit in "123456789"]) / 100
    return boxes[:, 1].min(), boxes[:, 3].max(), (boxes[:, 2] - boxes[:, 0]).max()


@lru_cache(maxsize=16384)
def glyph(name: str, digit: int, cell: int, height: int, weight: int | None = None) -> Image.Image:
    """A digit in the middle of its cell.

    Args:
        name: of the font.
        digit: 1 to 9.
        cell: side of the cell, pixels.
        height: of the highest digit of the font, pixels; less where the widest would fill the cell.
        weight: in place of the font's own, where its file holds several.

    Returns:
        A grey picture of cell x cell pixels, not to be written to: 255 on the digit, 0 elsewhere.
    """
    top, bottom, width = _extent(name)
    size = min(height / (bottom - top), _WIDEST * cell / width)
    face = _face(name, size, weight)
    left, _, right, _ = face.getbbox(str(digit), anchor="ls")
    mask = Image.new("L", (cell, cell))
    corner = ((cell - left - right) / 2, cell / 2 - size * (top + bottom) / 2)  # digits of a row share a baseline
    ImageDraw.Draw(mask).text(corner, str(digit), fill=255, font=face, anchor="ls")
    return mask

"""The values of `format` that are enforced, as regular expressions. Each is read so that checkers agree on it: what
some of them refuse is left out."""

from __future__ import annotations

_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_YEAR = "(?!0000)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#: A label without "--" in its third and fourth place, which some checkers decode (A-labels, RFC 5891).
_C, _A = "[A-Za-z0-9-]", "[A-Za-z0-9]"
_HOST = f"{_A}(?:(?:{_C}{{{{0,2}}}}{_A})?|{_C}(?:{_A}{_C}|-{_A}){_C}{{{{0,{{}}}}}}{_A})"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H = "[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    [f"(?:{_H}:){{7}}{_H}", f"(?:{_H}:){{6}}{_IPV4}", "::"]
    + [f"(?:{_H}:){{{k}}}(?::{_H}){{1,{7 - k}}}" for k in range(1, 7)]
    + [f"::(?:{_H}:){{0,6}}{_H}", f"(?:{_H}:){{1,7}}:", f"::(?:{_H}:){{0,5}}{_IPV4}"]
    + [f"(?:{_H}:){{{k}}}:(?:{_H}:){{0,{5 - k}}}{_IPV4}" for k in range(1, 6)]
)
_PERCENT = "%[0-9A-Fa-f]{2}"
_SAFE = r"A-Za-z0-9._~!$&'()*+,;=\-"
_PCHAR = f"(?:[{_SAFE}:@]|{_PERCENT})"
_AUTHORITY = rf"(?:(?:[{_SAFE}:]|{_PERCENT})*@)?(?:\[(?:{_IPV6})\]|(?:[{_SAFE}]|{_PERCENT})*)(?::[0-9]*)?"
_QUERY = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_REST = f"(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?|{_PCHAR}+(?:/{_PCHAR}*)*|)"
_URI = rf"[A-Za-z][A-Za-z0-9+.-]*:{_REST}{_QUERY}"
_RELATIVE = (
    f"(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?"
    f"|(?:[{_SAFE}@]|{_PERCENT})+(?:/{_PCHAR}*)*|){_QUERY}"
)
_POINTER = "(?:/(?:[^/~]|~[01])*)*"

#: By name: the texts of a format, in the syntax of Python's `re`.
FORMATS = {
    "date": _YEAR + _DATE,
    "time": _CLOCK,
    "date-time": _YEAR + f"{_DATE}[Tt]{_CLOCK}",
    "duration": (
        r"P(?:[0-9]+W|[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?"
        r"|(?:[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?)?"
        r"T(?:[0-9]+S|[0-9]+M(?:[0-9]+S)?|[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?))"
    ),
    "email": rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*",
    # At most 253 characters: few labels, or short ones.
    "hostname": rf"{_HOST.format(58)}(?:\.{_HOST.format(58)}){{0,2}}|{_HOST.format(19)}(?:\.{_HOST.format(19)}){{0,9}}",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": f"{_URI}|{_RELATIVE}",
    "uuid": "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
}
#: By name: all that a checker may accept under a format, where it is a loose one.
WIDE = {
    "date": "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "time": "(?s)[0-9]{2}:[0-9]{2}:[0-9]{2}.*",
    "date-time": "(?s)[0-9]{4}-[0-9]{2}-[0-9]{2}.*",
    "duration": "(?s).?P.*",
    "email": "(?s).*@.*",
    "hostname": "[!-~]*",
    "ipv4": "[0-9.]*",
    "ipv6": "[0-9A-Fa-f:.]*",
    "uri": "(?s)[A-Za-z][A-Za-z0-9+.-]*:.*",
    "uri-reference": "(?s).*",
    "uuid": "(?s).{8}-.{4}-.{4}-.{4}-.*",
    "json-pointer": "(?s)(?:/.*)?",
    "relative-json-pointer": "(?s)[0-9].*",
}
#: Formats of the drafts that no automaton here decides.
REFUSED = ("regex", "uri-template", "iri", "iri-reference", "idn-hostname", "idn-email")

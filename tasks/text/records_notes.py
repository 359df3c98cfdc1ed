"""Notes in plain English, the schema of what is asked for, and the record that answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .records_values import TIME_PATTERN, held_out, one, value_of, word

#: Kind of a field -> its schema. A choice lists its words.
SCHEMAS: dict[str, dict[str, Any]] = {
    **{kind: {"type": "string"} for kind in ("person", "place", "product", "weekday")},
    "count": {"type": "integer"},
    "price": {"type": "number"},
    "time": {"type": "string", "pattern": TIME_PATTERN},
    "flag": {"type": "boolean"},
}
CHOICES = {
    "size": ("small", "medium", "large"),
    "color": ("red", "green", "blue", "black", "white"),
    "priority": ("low", "normal", "high"),
    "class": ("first", "second", "third"),
    "grade": ("low", "medium", "high"),
}
#: Sentences that any field of a kind can stand in.
_NAMED = ("The {key} is {value}.", "{value} is the {key}.", "As {key} we have {value}.")
GENERIC: dict[str, tuple[str, ...]] = {
    **{kind: _NAMED for kind in ("person", "place", "product")},
    "count": ("The {key} is {value}.", "It has {key} {value}."),
    "price": ("The {key} is {value} euros.", "For the {key} we count {value} euros."),
    "time": ("The {key} is at {value}.", "We plan the {key} for {value}."),
    "weekday": ("The {key} is {value}.", "For the {key} we chose {value}."),
    "flag": ("It is {value}{key}.", "This one is {value}{key}."),
    "choice": ("The {key} is {value}.", "We need {value} as {key}."),
}
#: Entity -> key -> kind, and sentences of its own.
ENTITIES: dict[str, dict[str, tuple[str, ...]]] = {
    "order": {
        "buyer": ("person", "{value} placed the order.", "It was ordered by {value}."),
        "product": ("product", "They want the {value}.", "It is for one {value}."),
        "count": ("count", "They need {value} pieces.", "We pack {value} pieces."),
        "price": ("price", "It costs {value} euros.", "The bill says {value} euros."),
        "town": ("place", "Send it to {value}.", "It goes to {value}."),
        "day": ("weekday", "It leaves on {value}.", "They need it by {value}."),
        "paid": ("flag",),
        "size": ("choice", "They asked for {value}."),
    },
    "appointment": {
        "patient": ("person", "{value} has an appointment.", "Please call {value}."),
        "doctor": ("person", "Ask for doctor {value}.", "Doctor {value} takes care."),
        "day": ("weekday", "Come on {value}.", "It is on {value}."),
        "time": ("time", "It starts at {value}.", "Be there at {value}."),
        "room": ("count", "Go to room {value}.", "It is in room {value}."),
        "town": ("place", "The office is in {value}.", "Come to {value}."),
        "urgent": ("flag",),
        "priority": ("choice",),
    },
    "person": {
        "name": ("person", "This is {value}.", "Say hello to {value}."),
        "age": ("count", "They are {value} years old.", "Their age is {value}."),
        "town": ("place", "They live in {value}.", "Their home is {value}."),
        "employer": ("product", "They work for {value}.", "They are paid by {value}."),
        "married": ("flag",),
        "color": ("choice", "They like {value}."),
        "salary": ("price", "They earn {value} euros."),
    },
    "payment": {
        "payer": ("person", "{value} paid.", "The money comes from {value}."),
        "payee": ("person", "The money goes to {value}.", "It was sent to {value}."),
        "amount": ("price", "It was {value} euros.", "The sum is {value} euros."),
        "day": ("weekday", "It arrived on {value}."),
        "bank": ("product", "It went through {value}."),
        "number": ("count", "It is payment {value}."),
        "confirmed": ("flag",),
    },
    "delivery": {},  # never trains
}
#: Sentences that tell several fields of an entity at once.
TOGETHER = {
    "order": (
        "{buyer} ordered the {product}.",
        "{buyer} wants {count} pieces of {product}.",
        "Send {count} pieces to {town} on {day}.",
    ),
    "appointment": (
        "{patient} sees {doctor}.",
        "Come on {day} at {time}.",
        "{patient} comes to room {room} at {time}.",
    ),
    "person": (
        "{name} lives in {town}.",
        "{name} is {age} years old.",
        "{name} works for {employer}.",
    ),
    "payment": (
        "{payer} paid {payee}.",
        "{payer} paid {amount} euros to {payee}.",
        "On {day} {payer} sent {amount} euros.",
    ),
    "delivery": (),
}


def _words(text: str) -> list[str]:
    return text.split()


#: Further fields that any record may have, by kind.
EXTRAS = {
    "person": _words(
        "driver teacher owner guest host manager lawyer farmer baker pilot nurse singer painter sister brother friend "
        "boss agent guard cook tenant coach captain editor dentist mayor judge clerk"
    ),
    "place": _words("village station market school hotel airport island valley street park garden museum beach square"),
    "product": _words("model company film book car boat game shop garage song engine phone camera paper"),
    "count": _words("floor seat track page shelf gate level score code lot bus platform locker row table line"),
    "price": _words("fee rent tax tip fine refund discount loan budget prize"),
    "time": _words("start end lunch break arrival opening closing call dinner lesson"),
    "weekday": _words("deadline party return visit holiday exam"),
    "flag": _words("private fragile insured frozen signed open ready new broken spare heavy clean"),
    "choice": ["class"],
}
#: Fields that never train.
NEW_KEYS = {
    "person": _words("courier witness tailor referee"),
    "place": _words("harbor castle suburb"),
    "product": _words("brand scooter"),
    "count": _words("weight ticket"),
    "price": _words("deposit bonus"),
    "time": _words("pickup checkout"),
    "weekday": ["pause"],
    "flag": _words("sealed vacant"),
    "choice": ["grade"],
}
KINDS = {
    **{key: words[0] for fields in ENTITIES.values() for key, words in fields.items()},
    **{key: kind for table in (EXTRAS, NEW_KEYS) for kind, keys in table.items() for key in keys},
}
NEW = frozenset(key for keys in NEW_KEYS.values() for key in keys)
#: Fields that a schema asks for, and most fields that a note tells beside them.
ASKED, BESIDE = (2, 4), 1


#: Share of the further fields of a training record whose key is a word that nobody knows: it teaches to match keys.
MADE_UP = 0.3


@dataclass(frozen=True)
class Record:
    """A note, the schema of what is asked for, and the answer.

    Attributes:
        fields: what is asked for, in the order of the schema.
        kinds: of the fields.
    """

    entity: str
    note: str
    fields: dict[str, Any]
    kinds: dict[str, str]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.fields)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """As `Json` takes it: each field is required, since the least count of members is the number of fields."""
        return {
            "type": "object",
            "properties": {key: schema_of(key, self.kinds[key]) for key in self.keys},
            "minProperties": len(self.keys),
            "additionalProperties": False,
        }

    @cached_property
    def prompt(self) -> str:
        return f"{json.dumps(self.schema)} {self.note}"

    @cached_property
    def answer(self) -> str:
        """The record in the spelling of `json_text`."""
        return json.dumps(self.fields, ensure_ascii=False)


def schema_of(key: str, kind: str) -> dict[str, Any]:
    return {"enum": list(CHOICES[key])} if kind == "choice" else SCHEMAS[kind]


def known_schema(entity: str, keys: tuple[str, ...]) -> bool:
    """Whether records of this entity with these fields, in any order, may train."""
    return entity != "delivery" and not NEW & set(keys) and not held_out(f"{entity} {' '.join(sorted(keys))}")


def drawn_record(draws: np.random.Generator, new_values: bool, new_schema: bool) -> Record:
    """A record whose values and whose schema never train, or may.

    Of the new schemas half hold fields that never train, and a quarter an entity that never trains. Where all may
    train, some keys are made up.
    """
    while True:
        entity, kinds = _drawn_keys(draws, new_schema, 0.0 if new_values or new_schema else MADE_UP)
        keys = list(kinds)
        asked = int(draws.integers(ASKED[0], min(ASKED[1], len(keys)) + 1))
        if known_schema(entity, tuple(keys[:asked])) != new_schema:
            break
    keys = keys[: asked + int(draws.integers(BESIDE + 1))]
    values = {key: _value(key, kinds[key], draws, new_values) for key in keys}
    asked_for = {key: values[key] for key in keys[:asked]}
    return Record(entity, _note(entity, values, kinds, draws), asked_for, {key: kinds[key] for key in asked_for})


def _drawn_keys(draws: np.random.Generator, new_schema: bool, made_up: float) -> tuple[str, dict[str, str]]:
    """An entity, and fields of it and of any record in random order, with their kinds; the first are asked for."""
    other = new_schema and draws.random() < 0.25
    entity = one([name for name in ENTITIES if (name == "delivery") == other], draws)
    own = list(ENTITIES[entity])
    keys = [own[index] for index in draws.permutation(len(own))[: int(draws.integers(2, 5))]]
    kinds = {key: ENTITIES[entity][key][0] for key in keys}
    for table in [EXTRAS, NEW_KEYS] if new_schema and draws.random() < 0.5 else [EXTRAS]:
        for _ in range(int(draws.integers(1 if own else 2, 3))):
            kind = one(list(table), draws)
            invented = draws.random() < made_up and kind != "choice"
            key = word("last", draws).lower() if invented else one(table[kind], draws)
            if key not in KINDS or KINDS[key] == kind:
                kinds.setdefault(key, kind)
    while len(kinds) < ASKED[0]:
        kinds.setdefault(one(EXTRAS["person"], draws), "person")
    keys = list(kinds)
    return entity, {keys[index]: kinds[keys[index]] for index in draws.permutation(len(keys))}


def _value(key: str, kind: str, draws: np.random.Generator, new: bool) -> Any:
    return one(CHOICES[key], draws) if kind == "choice" else value_of(kind, draws, new)


def _note(entity: str, values: dict[str, Any], kinds: dict[str, str], draws: np.random.Generator) -> str:
    """A headline, and a sentence for each fact in random order."""
    texts = {key: written(value) for key, value in values.items()}
    sentences, left = [], set(texts)
    for index in draws.permutation(len(TOGETHER[entity])):
        sentence = TOGETHER[entity][index]
        named = {key for key in texts if "{" + key + "}" in sentence}
        if named <= left and sentence.count("{") == len(named) and draws.random() < 0.7:
            sentences.append(sentence.format(**texts))
            left -= named
    for key in sorted(left):
        sentence = one([*ENTITIES[entity].get(key, ())[1:], *GENERIC[kinds[key]]], draws)
        sentences.append(sentence.format(key=key, value=texts[key]))
    order = draws.permutation(len(sentences))
    return " ".join([f"New {entity}.", *(sentences[index] for index in order)])


def written(value: Any) -> str:
    """A value as notes write it; a flag says that what its key names is not so."""
    if isinstance(value, bool):
        return "" if value else "not "
    return str(value)

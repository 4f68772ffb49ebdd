"""A small grammar, read by recursive descent: what it accepts is a tree of known names, or one sentence says why not.

truth       := conjunction ("or" conjunction)*          conjunction := negation ("and" negation)*
negation    := "not" negation | comparison              comparison  := sum (("<=" | "==" | ... | "in") sum)*
sum         := product (("+" | "-") product)*           product     := atom (("*" | "//" | "%") atom)*
atom        := number | name | name "[" stage ("," chunk)? "]" | "max" "(" name ")" | word | "(" truth ")" | "-" atom
"""

from functools import lru_cache

from moeopt.constraints import typed
from moeopt.constraints.linear import check_placement
from moeopt.constraints.names import DEGREES, QUANTITIES, choices, quantity
from moeopt.constraints.tokens import MOST_TOKENS, Token, refusal, tokens
from moeopt.constraints.tree import Every, Item, Name, Number, Some, Truth, negated
from moeopt.constraints.typed import Listed, Operand, Selected, Word
from moeopt.errors import InputError
from moeopt.units import parse_bytes, parse_duration_ns

_DEEPEST = 40
_COMPARED = ("<=", ">=", "==", "=", "!=", "<", ">")
_MOST_STAGES = 10**5


@lru_cache(maxsize=1024)
def parse(text: str) -> Truth:
    """The tree of one constraint, every `not` moved inwards. Raises InputError: one sentence with the column."""
    parser = _Parser(text)
    node = parser.whole()
    check_placement(text, node)
    return node


class _Parser:
    """One reading of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(tokens(text))
        if len(self.tokens) > MOST_TOKENS:
            raise refusal(text, self.tokens[MOST_TOKENS].column, f"more than {MOST_TOKENS} words, numbers and signs")
        self.position = self.depth = 0

    def whole(self) -> Truth:
        if len(self.tokens) == 1:
            raise refusal(self.text, 1, "is empty; write it like tp * cp <= 8")
        found = self._truth(self._either())
        if self.next.kind != "end":
            raise refusal(self.text, self.next.column, f"{self.next.text!r} is not expected here")
        return found

    # Tokens -------------------------------------------------------------------------------------------------------

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def _take(self, kind: str, *texts: str) -> Token | None:
        """The next token where it is one of these (any of the kind where none is named)."""
        token = self.next
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self.position += 1
        return token

    def _expect(self, sign: str) -> None:
        if not self._take("sign", sign):
            found = repr(self.next.text) if self.next.text else "nothing"
            raise refusal(self.text, self.next.column, f"{sign!r} is expected here, not {found}")

    # Truths -------------------------------------------------------------------------------------------------------

    def _truth(self, operand: Operand) -> Truth:
        return typed.truth(self.text, operand)

    def _either(self) -> Operand:
        first = self._both()
        parts = [first]
        while self._take("word", "or"):
            parts.append(self._both())
        if len(parts) == 1:
            return first
        return Operand(Some(tuple(map(self._truth, parts))), first.column)

    def _both(self) -> Operand:
        first = self._not()
        parts = [first]
        while self._take("word", "and"):
            parts.append(self._not())
        if len(parts) == 1:
            return first
        return Operand(Every(tuple(map(self._truth, parts))), first.column)

    def _not(self) -> Operand:
        token = self._take("word", "not")
        if token is None:
            return self._comparison()
        self._deeper()
        inner = negated(self._truth(self._not()))
        self.depth -= 1
        return Operand(inner, token.column)

    def _comparison(self) -> Operand:
        left = self._sum()
        parts: list[Truth] = []
        start = left.column
        while True:
            token = self.next
            if self._take("sign", *_COMPARED):
                right = self._sum()
                sign = "==" if token.text == "=" else token.text
                parts.append(typed.compare(self.text, sign, left, right, token.column))
                left = right
            elif self._inside():
                parts.append(typed.among(self.text, left, self._set(), token.column, token.text == "in"))
            else:
                break
        if not parts:
            return left
        return Operand(parts[0] if len(parts) == 1 else Every(tuple(parts)), start)

    def _inside(self) -> bool:
        """`in` or `not in`."""
        after = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
        if self.next.text == "not" and self.next.kind == "word" and after.text == "in":
            self.position += 1
        return self._take("word", "in") is not None

    def _set(self) -> Operand:
        opening = self._take("sign", "[")
        if opening is None:
            return self._sum()
        listed = [self._sum()]
        while self._take("sign", ","):
            listed.append(self._sum())
        self._expect("]")
        return Operand(Listed(tuple(listed)), opening.column)

    # Numbers ------------------------------------------------------------------------------------------------------

    def _sum(self) -> Operand:
        left = self._product()
        while token := self._take("sign", "+", "-"):
            left = typed.arithmetic(self.text, token.text, left, self._product(), token.column)
        return left

    def _product(self) -> Operand:
        left = self._atom()
        while token := self._take("sign", "*", "//", "%"):
            left = typed.arithmetic(self.text, token.text, left, self._atom(), token.column)
        return left

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise refusal(self.text, self.next.column, f"nested more than {_DEEPEST} deep")

    def _atom(self) -> Operand:
        self._deeper()
        token = self.next
        if self._take("sign", "("):
            operand = Operand(self._either().node, token.column)
            self._expect(")")
        elif self._take("sign", "-"):
            zero = Operand(Number(0, "integer", "0"), token.column)
            operand = typed.arithmetic(self.text, "-", zero, self._atom(), token.column)
        elif self._take("number"):
            operand = Operand(_number(self.text, token), token.column)
        elif self._take("quoted"):
            operand = Operand(Word(token.text), token.column)
        elif token.kind == "word" and token.text not in ("and", "or", "in", "not"):
            self.position += 1
            operand = self._name(token)
        else:
            found = repr(token.text) if token.text else "the end"
            raise refusal(self.text, token.column, f"a number or a name is expected here, not {found}")
        self.depth -= 1
        return operand

    def _name(self, token: Token) -> Operand:
        name = token.text
        if name in ("max", "min") and self._take("sign", "("):
            inner = self.next
            if not self._take("word", *QUANTITIES) or inner.text == "step_time":
                raise refusal(
                    self.text, inner.column, f"{name}( ) takes layers, mtp or peak_memory: their values over stages"
                )
            self._expect(")")
            found = Item(quantity(inner.text), "max" if name == "max" else "min", None, QUANTITIES[inner.text])
            return Operand(found, token.column)
        if name in QUANTITIES:
            return Operand(self._item(token), token.column)
        if name in DEGREES:
            return Operand(Name(name, "integer"), token.column)
        choice = choices().get(name)
        if choice is None:
            return Operand(Word(name), token.column)
        if choice.type in ("switch", "word", "words"):
            return Operand(Selected(choice), token.column)
        return Operand(Name(name, "integer" if choice.type == "integer" else "fraction"), token.column)

    def _item(self, token: Token) -> Item:
        name, kind = quantity(token.text), QUANTITIES[token.text]
        if not self._take("sign", "["):
            if name in ("layers", "mtp"):
                raise refusal(
                    self.text,
                    token.column,
                    f"{name} needs a stage: {name}[0] for the first, {name}[-1] for the last, max({name}) for the most",
                )
            return Item(name, "all", None, kind)
        if name == "step_time":
            raise refusal(self.text, token.column, "step_time is one number for the whole layout: write it without [ ]")
        stage = self._index()
        chunk = None
        if self._take("sign", ","):
            if name == "peak_memory":
                raise refusal(self.text, token.column, "memory is known for a stage, not for a chunk of it")
            chunk = self._index()
        self._expect("]")
        return Item(name, stage, chunk, kind)

    def _index(self) -> int:
        sign = -1 if self._take("sign", "-") else 1
        token = self.next
        if not self._take("number") or token.unit or not token.text.isdecimal() or len(token.text) > 6:
            raise refusal(self.text, token.column, f"a stage is a whole number (-1: the last), not {token.text!r}")
        if int(token.text) > _MOST_STAGES:
            raise refusal(self.text, token.column, f"no layout has a stage {token.text}")
        return sign * int(token.text)


def _number(text: str, token: Token) -> Number:
    shown = token.text + token.unit
    if len(token.text) > 30:
        raise refusal(text, token.column, "a number has at most 30 digits")
    try:
        if not token.unit:
            return typed.plain_number(token.text)
        if token.unit.upper().endswith("B"):
            return Number(parse_bytes(shown), "bytes", shown)
        return Number(parse_duration_ns(shown), "duration", shown)
    except InputError as error:
        raise refusal(text, token.column, str(error).partition(": ")[2]) from None

"""Reads what Rust files import: `use` lines and paths, through re-exports and other names of modules, for `.ci/floors`.

Reads words, not types, and no macro is expanded. What `cfg` leaves out of every build is left out here.
"""

import re
from collections import defaultdict

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<comment>/\*)
    |(?P<text>(?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes)|(?:b|c)?"(?:\\.|[^"\\])*"
        |b?'(?:\\u\{\w+\}|\\x..|\\.|[^'\\])'|'\w+)
    |(?P<token>(?:r\#)?[A-Za-z_]\w*|::|\d\w*|.)""",
    re.DOTALL | re.VERBOSE,
)
NAME = re.compile(r"(r#)?[A-Za-z_]\w*$")
ITEMS = {"struct", "enum", "trait", "fn", "const", "static", "type", "union", "macro_rules"}
ITEM_STARTS = ITEMS | {"use", "mod", "impl", "unsafe", "async", "extern", "let"}
CLOSING = {"(": ")", "[": "]", "{": "}"}


def tokens_of(text):
    """(token, line) without comments, and with strings and characters left out."""
    tokens, at, line = [], 0, 1
    while at < len(text):
        found = TOKEN.match(text, at)
        end = found.end()
        if found["comment"]:
            depth = 1
            while depth and (mark := re.compile(r"/\*|\*/").search(text, end)):
                depth += 1 if mark[0] == "/*" else -1
                end = mark.end()
        elif found["token"]:
            tokens.append((found["token"], line))
        elif found["text"]:
            tokens.append(('"', line))
        line += text.count("\n", at, end)
        at = end
    return tokens


def past(tokens, at):
    """The place after the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        token = tokens[at][0]
        depth += (token in CLOSING) - (token in CLOSING.values())
        at += 1
        if depth == 0:
            break
    return at


def holds(words):
    """Whether a `cfg` can hold in a build that is neither a test nor documentation: False, or None for who knows."""
    if words[:1] == ["not"]:
        inner = holds(words[2:-1])
        return None if inner is None else not inner
    if words[:1] in (["all"], ["any"]):
        parts, part, depth = [], [], 0
        for word in words[2:-1]:
            depth += (word == "(") - (word == ")")
            if word == "," and depth == 0:
                parts.append(part)
                part = []
            else:
                part.append(word)
        answers = [holds(part) for part in parts + [part] if part]
        decided = words[0] == "any"
        if decided in answers:
            return decided
        return None if None in answers else not decided
    return False if words in (["test"], ["doc"], ["doctest"]) else None


def item_at(tokens, at):
    """The place of the item's own first word, after attributes and visibility."""
    while tokens[at][0] == "#":
        at = past(tokens, at + 1)
    if tokens[at][0] == "pub":
        at += 1
        if tokens[at][0] == "(":
            at = past(tokens, at)
    return at


def past_item(tokens, at):
    """The place after the item, field, arm or statement whose first word is at `at`."""
    first = tokens[at][0]
    while at < len(tokens):
        token = tokens[at][0]
        if token in CLOSING:
            at = past(tokens, at)
            if token == "{" and first != "use":
                return at
        elif token in CLOSING.values():
            return at
        else:
            at += 1
            if token == ";" or (token == "," and first not in ITEM_STARTS):
                return at
    return at


class Module:
    """A module, of a file or within one: what it defines, and what it names."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.items, self.children, self.words = set(), set(), defaultdict(int)
        self.names = {}  # What `use` brought in: name -> path as written.
        self.uses = []  # (path as written, line, name or None for all, public)
        self.refs = []  # (path as written, line)


class Source:
    """The modules of one file. `dead` gets those that only tests and documentation have."""

    def __init__(self, path, file, text):
        self.tokens, self.dead = tokens_of(text), set()
        self.modules = {path: Module(path, file)}
        self.file = file
        self.whole(path)

    def whole(self, path):
        at, depth, inside = 0, 0, [(path, 0)]  # The modules that are open, and the depth of their contents.
        tokens = self.tokens
        while at < len(tokens):
            token, line = tokens[at]
            before = tokens[at - 1][0] if at else ""
            after = tokens[at + 1][0] if at + 1 < len(tokens) else ""
            path, level = inside[-1]
            module = self.modules[path]
            if token == "#" and after in ("[", "!"):
                inner = after == "!"
                end = past(tokens, at + 1 + inner)
                words = [word for word, _ in tokens[at + 2 + inner : end - 1]]
                at = end
                if words[:1] == ["cfg"] and holds(words[2:-1]) is False:
                    if inner:
                        self.dead.add(path)
                        return
                    at = item_at(tokens, at)
                    if tokens[at][0] == "mod":
                        self.dead.add(path + (tokens[at + 1][0],))
                    at = past_item(tokens, at)
                continue
            if token == "mod" and NAME.match(after):
                child = path + (after,)
                module.children.add(after)
                at += 2
                if tokens[at][0] == "{":
                    depth += 1
                    inside.append((child, depth))
                    self.modules[child] = Module(child, self.file)
                at += 1
                continue
            if token == "use" and before not in (".", "::"):
                public = before in ("pub", ")")
                at = self.tree(module, at + 1, [], public)
                continue
            if token in ITEMS and depth == level and (NAME.match(after) or after == "!"):
                module.items.add(tokens[at + 2][0] if after == "!" else after)
            if NAME.match(token):
                module.words[token] += 1
                if after == "::" and before != "::":
                    end, segments = at, [token]
                    while tokens[end + 1][0] == "::" and NAME.match(tokens[end + 2][0]):
                        end += 2
                        segments.append(tokens[end][0])
                        module.words[tokens[end][0]] += 1
                    if not (before == "in" and tokens[at - 2][0] == "("):  # `pub(in crate::room)` names no one else.
                        module.refs.append((tuple(segments), line))
                    at = end
            depth += (token in CLOSING) - (token in CLOSING.values())
            if token == "}" and depth < level:
                inside.pop()
            at += 1

    def tree(self, module, at, prefix, public):
        """Reads one use tree; the place after it, its `;` or `,` included."""
        tokens, segments = self.tokens, list(prefix)
        while True:
            token, line = tokens[at]
            at += 1
            if NAME.match(token):
                alias = token
                if token == "self" and segments:
                    alias = segments[-1]
                else:
                    segments.append(token)
                if tokens[at][0] == "as":
                    alias = tokens[at + 1][0]
                    at += 2
                if tokens[at][0] != "::":
                    module.names[alias] = tuple(segments)
                    module.uses.append((tuple(segments), line, alias, public))
            elif token == "*":
                module.uses.append((tuple(segments) + ("*",), line, None, public))
            elif token == "{":
                while tokens[at][0] != "}":
                    at = self.tree(module, at, segments, public)
                at += 1
            if token != "::" and tokens[at][0] != "::":
                return at + (tokens[at][0] in (",", ";"))


class House:
    """All modules of one `src` folder."""

    def __init__(self, root, folder):
        self.modules, dead = {}, set()
        for file in sorted((root / folder).rglob("*.rs")):
            parts = file.relative_to(root / folder).with_suffix("").parts
            path = parts[:-1] if parts[-1] in ("mod", "lib") else parts
            source = Source(path, str(file.relative_to(root)), file.read_text())
            dead |= source.dead
            self.modules |= source.modules
        under = lambda path: any(path[: len(top)] == top for top in dead)
        self.modules = {path: module for path, module in self.modules.items() if not under(path)}

    def absolute(self, module, segments):
        """The path from the root, or None for another crate's."""
        head, rest = segments[0], tuple(segments[1:])
        if head == "crate":
            return rest
        if head in ("self", "super"):
            path = module.path if head == "self" else module.path[:-1]
            while rest[:1] == ("super",):
                path, rest = path[:-1], rest[1:]
            return path + rest
        if head in module.children or head in module.items or head in module.names:
            return module.path + tuple(segments)
        return None

    def walk(self, path, seen=()):
        """(module, what is left of the path in it, where that is defined); None for another crate's."""
        if path is None or path in seen or () not in self.modules:
            return None
        seen += (path,)
        module = self.modules[()]
        for at, name in enumerate(path):
            if module.path + (name,) in self.modules:
                module = self.modules[module.path + (name,)]
                continue
            left = path[at:]
            if name in module.names:
                to = self.walk(self.absolute(module, module.names[name]), seen)
                if to is None or to[1]:
                    return to and (module, left, to[2])
                module = to[0]  # Another name of a module.
                continue
            if name not in module.items:
                for segments in [segments for segments, _, alias, _ in module.uses if alias is None]:
                    to = self.walk(self.absolute(module, segments[:-1]), seen)
                    of = to and not to[1] and self.walk(to[0].path + left, seen)
                    if of and (not of[1] or of[1][0] in of[2].items):
                        return module, left, of[2]
            return module, left, module
        return module, (), module

    def imports(self):
        """(module, line, module, what is left, where that is defined, whether it is only passed on)."""
        for module in self.modules.values():
            for segments, line, name, public in module.uses:
                # A name that is not used here is only passed on.
                yield from self.one(module, line, segments, public and not module.words[name])
            for segments, line in module.refs:
                head = segments[0]
                if head in ("crate", "self", "super") or head in module.children or head in module.names:
                    named = self.walk(self.absolute(module, segments[:1]))
                    # A path through an imported type says nothing that the import has not said.
                    if named and not named[1]:
                        yield from self.one(module, line, segments, False)

    def one(self, module, line, segments, passed):
        if found := self.walk(self.absolute(module, segments)):
            yield module, line, *found, passed

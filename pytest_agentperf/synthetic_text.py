"""Text of a made-up coding session: source code, tool output, prose, tool schemas and calls.

Nothing here is recorded and nothing names a real machine. Pieces are cut to the character, since
their lengths decide the lengths of the prompts.
"""

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["LANGUAGES", "Book", "arguments", "choose_tool", "tool_schemas"]

NOUNS = (
    "account", "answer", "batch", "bucket", "buffer", "cache", "channel", "client", "config",
    "cursor", "digest", "entry", "event", "filter", "frame", "handle", "header", "index", "job",
    "ledger", "lock", "message", "node", "order", "packet", "parser", "policy", "queue",
    "record", "region", "report", "route", "schema", "session", "shard", "signal", "socket",
    "stream", "table", "task", "ticket", "token", "upload", "user", "value", "vector", "worker",
)  # fmt: skip
VERBS = (
    "apply", "build", "check", "close", "collect", "copy", "decode", "drop", "encode", "expand",
    "fetch", "flush", "format", "join", "load", "merge", "notify", "open", "parse", "prune",
    "read", "render", "reset", "resolve", "retry", "save", "scan", "send", "sort", "split",
    "store", "sync", "trim", "update", "verify", "wrap", "write",
)  # fmt: skip

# VERB, OTHER, NAME, NUM and the rest are replaced once a block, so that a block agrees with itself.
CODE = {
    "Python": '''def VERB_NOUN(OTHER, limit=NUM):
    """Return what is left of every OTHER after the NOUN has been checked."""
    found = []
    for item in OTHER.items():
        if item.NOUN_id is None or item.size > limit:
            logger.warning("skipping %s: no NOUN", item.name)
            continue
        found.append(VERB(item, retries=CNT))
    return sorted(found, key=lambda one: one.NOUN_id)


''',
    "TypeScript": """export async function VERBNAME(OTHERs: NAME[], limit = NUM): Promise<NAME[]> {
  const found: NAME[] = [];
  for (const item of OTHERs) {
    if (item.NOUNId === undefined || item.size > limit) {
      console.warn(`skipping ${item.name}: no NOUN`);
      continue;
    }
    found.push(await VERB(item, { retries: CNT }));
  }
  return found.sort((a, b) => a.NOUNId - b.NOUNId);
}

""",
    "Go": """func (s *NAMEStore) VERBNAME(ctx context.Context, limit int) ([]NAME, error) {
	found := make([]NAME, 0, NUM)
	for _, item := range s.OTHER {
		if item.NOUNID == 0 || item.Size > limit {
			continue
		}
		next, err := s.VERB(ctx, item, CNT)
		if err != nil {
			return nil, fmt.Errorf("VERB NOUN %d: %w", item.NOUNID, err)
		}
		found = append(found, next)
	}
	return found, nil
}

""",
    "Rust": """impl NAME {
    pub fn VERB_OTHER(&self, limit: usize) -> Result<Vec<NAME>, Error> {
        let mut found = Vec::with_capacity(NUM);
        for item in self.OTHER.iter().filter(|item| item.size <= limit) {
            found.push(item.VERB(CNT).map_err(|e| Error::NAME(e.to_string()))?);
        }
        found.sort_by_key(|item| item.NOUN_id);
        Ok(found)
    }
}

""",
    "Java": """    public List<NAME> VERBNAME(List<NAME> OTHER, int limit) {
        List<NAME> found = new ArrayList<>(NUM);
        for (NAME item : OTHER) {
            if (item.getNOUNId() == null || item.size() > limit) {
                log.warn("skipping {}: no NOUN", item.name());
                continue;
            }
            found.add(VERB(item, CNT));
        }
        return found;
    }

""",
    "C++": """std::vector<NAME> VERB_NOUN(const std::vector<NAME>& OTHER, std::size_t limit) {
    std::vector<NAME> found;
    found.reserve(NUM);
    for (const auto& item : OTHER) {
        if (!item.NOUN_id || item.size > limit) continue;
        found.push_back(VERB(item, CNT));
    }
    return found;
}

""",
    "Ruby": """  def VERB_NOUN(OTHER, limit: NUM)
    OTHER.reject { |item| item.NOUN_id.nil? || item.size > limit }
         .map { |item| VERB(item, retries: CNT) }
         .sort_by(&:NOUN_id)
  end

""",
}
EXTENSIONS = {
    "Python": "py", "TypeScript": "ts", "Go": "go", "Rust": "rs", "Java": "java", "C++": "cc",
    "Ruby": "rb",
}  # fmt: skip
LANGUAGES = ("Python",) * 8 + ("TypeScript",) * 4 + ("Go",) * 3 + ("Rust", "Java", "C++", "Ruby")
"""Each as often as it is drawn: Python most, then TypeScript and Go."""

OTHER_TEXT = {
    "prose": """The NOUN is built before the OTHER, so VERB_NOUN sees an empty list when the limit \
is NUM. I should check who calls it first. The test for the OTHER passes only because it never \
reaches branch CNT. If I VERB the NOUN where it enters, the rest of the module stays as it is, and \
the OTHER keeps its order.
""",
    "rules": """- Read the file before you VERB a NOUN in it, and keep the style that the OTHER \
already has.
- Never change more than NUM lines for one OTHER; run the tests that cover the NOUN after each \
edit.
- When a command fails CNT times, say what you tried and choose another way to VERB the OTHER.
""",
    "grep": """src/NOUN/VERB_OTHER.txt:NUM:    NOUN = VERB(OTHER, CNT)
src/OTHER/NOUN.txt:NUM:    return VERB_NOUN(OTHER)
tests/NOUN/test_OTHER.txt:CNT:    assert VERB(NOUN) == NUM
""",
    "run_tests": """tests/NOUN/test_VERB_OTHER.txt::test_NOUN_is_kept PASSED
tests/NOUN/test_VERB_OTHER.txt::test_VERB_twice PASSED
tests/OTHER/test_NOUN.txt::test_limit_NUM FAILED
    expected CNT of OTHER, found NUM: the NOUN was not reset before the second VERB
""",
    "bash": """-rw-r--r-- 1 dev dev NUM NOUN_VERB.txt
-rw-r--r-- 1 dev dev CNT OTHER_NOUN.txt
[NOUN] VERB OTHER: done in NUM ms, CNT warnings
""",
}
PAGE_CHARS = 120_000
SHORT_RESULT_TOKENS = 100
"""A file is not read for less."""
SHORT_OUTPUT_TOKENS = 200
"""Nor edited in less."""


class Book:
    """Long texts of every kind, written once, from which pieces are cut.

    Args:
        below: draws an integer from 0 up to, not including, its argument.
    """

    def __init__(self, below: Callable[[int], int]) -> None:
        self._pages = {kind: _page(block, below) for kind, block in (CODE | OTHER_TEXT).items()}

    def cut(self, kind: str, chars: int, below: Callable[[int], int]) -> str:
        """Return exactly ``chars`` characters of a kind, from the start of a drawn block on."""
        text, starts = self._pages[kind]
        start = starts[below(len(starts))]
        piece = text[start : start + chars]
        while len(piece) < chars:
            piece += text[: chars - len(piece)]
        return piece


def _page(block: str, below: Callable[[int], int]) -> tuple[str, list[int]]:
    blocks: list[str] = []
    starts: list[int] = []
    chars = 0
    while chars < PAGE_CHARS:
        noun = NOUNS[below(len(NOUNS))]
        filled = block.replace("VERB", VERBS[below(len(VERBS))]).replace("NOUN", noun)
        filled = filled.replace("OTHER", NOUNS[below(len(NOUNS))]).replace("NAME", noun.title())
        filled = filled.replace("NUM", str(below(4000))).replace("CNT", str(below(9) + 1))
        starts.append(chars)
        blocks.append(filled)
        chars += len(filled)
    return "".join(blocks), starts


def _path(language: str, below: Callable[[int], int]) -> str:
    """Return a source file's path inside its repository, at most 33 characters long."""
    folder, name = NOUNS[below(len(NOUNS))], NOUNS[below(len(NOUNS))]
    return f"src/{folder}/{VERBS[below(len(VERBS))]}_{name}.{EXTENSIONS[language]}"


def choose_tool(output_tokens: int, result_tokens: int, below: Callable[[int], int]) -> str:
    """Return a tool that an answer of this length may call for a result of that length."""
    fitting = ["grep", "run_tests", "bash"]
    if result_tokens > SHORT_RESULT_TOKENS:
        fitting += ["read_file"] * 7
    if output_tokens > SHORT_OUTPUT_TOKENS:
        fitting += ["edit_file"] * 10
    return fitting[below(len(fitting))]


def arguments(tool: str, language: str, chars: int, book: Book, below: Callable[[int], int]) -> str:
    """Return valid JSON arguments for a call of ``tool``.

    Args:
        tool: one that ``tool_schemas`` describes.
        language: of the files it works on.
        chars: about the length of the texts in an ``edit_file``; the others are always short.
        book: where the texts are cut from.
        below: draws an integer from 0 up to, not including, its argument.
    """
    noun, verb = NOUNS[below(len(NOUNS))], VERBS[below(len(VERBS))]
    if tool == "edit_file":
        old, new = (book.cut(language, part, below) for part in (chars // 4, chars - chars // 4))
        given = {"path": _path(language, below), "old_text": old, "new_text": new}
    elif tool == "read_file":
        given = {"path": _path(language, below)}
    elif tool == "grep":
        given = {"pattern": f"{verb}_{noun}", "path": "src"}
    elif tool == "run_tests":
        given = {"path": f"tests/{noun}"}
    else:
        given = {"command": f"git log -n 5 src/{noun}"}
    return msgspec.json.encode(given).decode()


def tool_schemas() -> tuple[dict[str, Any], ...]:
    """Return the five tools of the made-up harness as OpenAI tool schemas."""
    file = "Path of the file, relative to the root of the repository."
    return (
        _tool("read_file", "Read a text file of the repository.", path=file),
        _tool("run_tests", "Run the tests below a path, print the outcome of each.", path=file),
        _tool(
            "edit_file",
            "Replace a passage that occurs once in a file by another.",
            path=file,
            old_text="The passage as it stands in the file, with its indentation.",
            new_text="What stands there afterwards.",
        ),
        _tool("bash", "Run a shell command, return what it printed.", command="The command line."),
        _tool(
            "grep",
            "Search the repository for a regular expression, print the matching lines.",
            pattern="The regular expression.",
            path="File or folder to search.",
        ),
    )


def _tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}

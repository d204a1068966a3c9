"""Every defect that data can have: its code, how bad it is, what it is and what to do about it.

python -m finetune.data.codes            write docs/data-checks.md
python -m finetune.data.codes --check    exit 1 when the page is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)


@dataclass(frozen=True)
class Code:
    """One kind of defect."""

    name: str
    group: str
    severity: str
    what: str
    mend: str


# Groups in the order of the page: name and heading.
GROUPS = {
    "file": "Files",
    "row": "Rows and columns",
    "turn": "Conversations",
    "pair": "Pairs, votes and tasks",
    "tool": "Tools",
    "text": "Text",
    "private": "Secrets and personal data",
    "answer": "Answers",
    "set": "The rows together",
    "leak": "Held-out rows and benchmarks",
    "token": "Tokens; only with a model",
}

# group: (code, severity, what it is, what to do)
TABLE: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "file": (
        ("file-missing", ERROR, "No file is where the path leads.", "Correct the path."),
        ("path-invalid", ERROR, "What is given is no path.", "Give a path or a list of paths."),
        ("hub", ERROR, "A dataset of the hub cannot be had.", "Check its name, or give local files."),
        ("file-empty", ERROR, "The file holds no rows.", "Check that it was copied whole."),
        ("file-packed", ERROR, "The file is packed.", "Unpack it first."),
        ("file-kind", ERROR, "Not a file of a known kind, or not what its ending says.", "Rename or convert it."),
        ("file-unreadable", ERROR, "The file cannot be opened.", "Check its rights."),
        ("file-too-large", ERROR, "One JSON array that is too large to be held in memory.", "Write JSON lines."),
        ("file-not-rows", ERROR, "One JSON object around the list of rows.", "Keep the list alone."),
        ("not-utf8", ERROR, "The bytes are not UTF-8.", "Convert the file with iconv."),
        ("nul-character", ERROR, "A NUL character, which no tokenizer takes.", "Remove it."),
        ("lone-surrogate", ERROR, "Half of a surrogate pair, which is no character.", "Remove it."),
        ("json-invalid", ERROR, "The line is not valid JSON.", "Mend or delete it."),
        ("json-cut", ERROR, "The file is cut short.", "Copy it again."),
        ("json-key-twice", ERROR, "A key is given twice.", "Keep one of them."),
        ("json-nan", ERROR, "NaN or an infinity, which JSON has not.", "Write null."),
        ("json-nested", ERROR, "Nested too deeply.", "Flatten it."),
        ("json-number", ERROR, "A number of thousands of digits.", "Write it as text."),
        ("line-too-long", ERROR, "A line over 10 MB.", "Split the row, or find the missing line break."),
        ("csv-ragged", ERROR, "More or fewer cells than the header has.", "Quote cells that hold the delimiter."),
        ("csv-delimiter", ERROR, "The cells are parted by another sign.", "Save it with the usual one."),
        ("csv-header", ERROR, "A column without a name, or two of one name.", "Mend the first line."),
        ("csv-quote", ERROR, "A quote is not closed, or stands where none may.", "Quote the cell."),
        ("parquet-broken", ERROR, "Not a whole Parquet file.", "Write or copy it again."),
        ("parquet-type", ERROR, "A column of bytes, or of objects instead of text.", "Write it as text or as a list."),
    ),
    "row": (
        ("refused", ERROR, "Something else for which `train` refuses a row.", "The message says it."),
        ("row-not-object", ERROR, "The row is not a JSON object.", "Write an object a row."),
        ("layout-unknown", ERROR, "The columns fit no layout.", "Name them with `data.columns`."),
        ("layout-mixed", ERROR, "The row has another layout than the file's first.", "Keep one layout in a file."),
        ("other-method", ERROR, "The rows are for another method.", "Use another file or method."),
        ("columns-setting", ERROR, "`data.columns` does not fit the rows.", "Correct it."),
        ("field-missing", ERROR, "A column that the layout needs is missing.", "Add it, or delete the row."),
        ("field-type", ERROR, "A value of the wrong type.", "Write text or a list, as the message says."),
        ("history-shape", ERROR, "`history` is not a list of pairs.", "Write [[question, answer], …]."),
        ("row-empty", ERROR, "There is nothing in the row.", "Delete the row."),
    ),
    "turn": (
        ("turn-shape", ERROR, "A turn is not an object.", "Write role and content."),
        ("role-missing", ERROR, "A turn has no role.", "Add it."),
        ("role-unknown", ERROR, "A role that nobody knows.", "Use system, user, assistant or tool."),
        ("content-missing", ERROR, "A turn without content.", "Fill it in, or delete the turn."),
        ("content-type", ERROR, "Content that is not text.", "Write text, or a list of text parts."),
        ("content-media", ERROR, "An image, audio or video part.", "Only text can be learned from."),
        ("turn-empty", ERROR, "A turn that says nothing.", "Fill it in, or delete the row."),
        ("late-system", ERROR, "A system turn that is not the first.", "Put it first."),
        ("assistant-first", ERROR, "The assistant speaks before the user.", "Begin with a user turn."),
        ("role-repeated", ERROR, "One role speaks twice in a row.", "Join the two turns."),
        ("last-turn", ERROR, "The last turn is not the assistant's.", "End with the answer to be learned."),
        ("weight-invalid", ERROR, "The `weight` of an answer is not 0 or 1, or all are 0.", "Correct it."),
        ("weight-ignored", WARNING, "A weight of a turn that is not the assistant's.", "Leave it out."),
        ("key-unread", INFO, "Keys of a turn that nothing reads.", "Nothing, unless they matter to you."),
    ),
    "pair": (
        ("pair-equal", ERROR, "The chosen and the rejected answer are the same.", "Delete the row, or correct one."),
        ("pair-prompt", ERROR, "The two conversations differ before their last turn.", "Give both the same question."),
        ("pair-verdict", ERROR, "What says which answer is better names neither.", "Name one, or write tie."),
        ("pair-score", ERROR, "A score is no number, or speaks against the pair.", "Correct it, or leave it out."),
        ("pair-tie", INFO, "No answer is better than another; the row is passed over.", "Nothing."),
        ("pair-contradicts", WARNING, "Another row prefers the other of the same two answers.", "Decide on one."),
        ("pair-length", WARNING, "Length alone tells which answer is chosen.", "Add pairs in which it does not."),
        ("vote-invalid", ERROR, "What should be a vote is none.", "Write true or false, 1 or 0, up or down."),
        ("vote-contradicts", WARNING, "Another row votes otherwise on the same answer.", "Decide on one."),
        ("task-answered", ERROR, "A task ends with an answer.", "End with what is asked."),
    ),
    "tool": (
        ("call-shape", ERROR, "A tool call that is not name and arguments.", "Write both, arguments as an object."),
        ("tool-shape", ERROR, "`tools` is not a list of named tools.", "Write a list of descriptions."),
        ("tool-uncalled", ERROR, "A tool answers, but nothing called it.", "Add the call before it."),
        ("tool-undeclared", WARNING, "A call of a tool that `tools` does not list.", "Declare or rename it."),
        ("tool-twice", WARNING, "Two tools of one name.", "Keep one."),
        ("tool-name", WARNING, "A tool's name is not 1 to 64 letters, digits, _ and -.", "Rename it."),
        ("tool-schema", WARNING, "`parameters` of a tool is not the JSON schema of an object.", "Correct it."),
        ("call-arguments", WARNING, "Arguments do not match the schema of the tool.", "Correct the call."),
        ("call-unanswered", WARNING, "A call that no tool turn answers.", "Add the tool's answer."),
        ("call-id", WARNING, "A tool turn answers a call that was not made.", "Correct `tool_call_id`."),
    ),
    "text": (
        ("mojibake", WARNING, "UTF-8 that was read as another encoding (â€™ for ’).", "Decode the source anew."),
        ("replacement-character", WARNING, "U+FFFD: a character was lost in decoding.", "Decode the source anew."),
        ("control-character", WARNING, "Control characters, which no person typed.", "Remove them."),
        ("invisible-character", WARNING, "Zero-width or hidden characters.", "Remove them."),
        ("bidirectional-character", WARNING, "Characters that turn the direction of text.", "Remove them."),
        ("html-entity", WARNING, "HTML entities left in the text, such as `&amp;`.", "Unescape the text."),
    ),
    "private": (
        ("secret-key", WARNING, "The key of a service, by its shape.", "Revoke it, and remove it."),
        ("secret-private-key", WARNING, "A private key block.", "Revoke it, and remove it."),
        ("secret-token", WARNING, "A signed token (JWT).", "Revoke it, and remove it."),
        ("secret-assignment", WARNING, "A password or key that is assigned or stands in an address.", "Remove it."),
        ("personal-email", WARNING, "E-mail addresses.", "Mask them, unless they are public."),
        ("personal-phone", WARNING, "Phone numbers.", "Mask them, unless they are public."),
        ("personal-iban", WARNING, "Bank accounts (IBAN, its checksum holds).", "Mask them."),
        ("personal-card", WARNING, "Payment cards (the Luhn checksum holds).", "Mask them."),
        ("personal-ssn", WARNING, "Numbers in the form of a US social security number.", "Mask them."),
        ("personal-ip", INFO, "Public IPv4 addresses.", "Mask them, if they are people's."),
    ),
    "answer": (
        ("boilerplate", WARNING, "Phrases that chat models say whatever is asked.", "Cut them out."),
        ("teacher-name", WARNING, "The answer says that it is another model.", "Cut it out."),
        ("refusal", WARNING, "The answer refuses.", "Keep only refusals that you mean to teach."),
        ("answer-placeholder", WARNING, "The answer says nothing (N/A, TODO, …).", "Fill it in, or delete the row."),
        ("answer-repeats-prompt", WARNING, "The answer begins with the whole question.", "Cut it out."),
        ("answer-cut", WARNING, "The answer stops in mid-sentence, where most do not.", "Write it to its end."),
        ("fence-open", WARNING, "A ``` fence is opened and not closed.", "Close it."),
        ("answer-not-json", WARNING, "The answer is not JSON, where most are.", "Mend it."),
    ),
    "set": (
        ("too-few-rows", WARNING, "Fewer than ten rows.", "Collect more; fifty to a few hundred show an effect."),
        ("duplicate-row", WARNING, "Rows that repeat an earlier one word for word.", "Keep one of each."),
        ("near-copy", WARNING, "Rows that nearly repeat another.", "Keep one of each group."),
        ("prompt-conflict", WARNING, "The same question with different answers.", "Decide on one."),
        ("label-imbalance", WARNING, "Nearly all short answers are the same one.", "Add rows of the other answers."),
        ("length-outlier", INFO, "Rows that are far longer than the others.", "Look whether they belong."),
        ("language-minority", INFO, "Rows in other languages than most.", "Look whether they belong."),
        ("language-switch", INFO, "The answer is in another language than the question.", "Look whether it should."),
    ),
    "leak": (
        ("held-out-trained", ERROR, "A measured row is trained on too.", "Delete it in one of them."),
        ("held-out-shares", ERROR, "A measured row shares a run of words with a training row.", "Keep it in one."),
        ("held-out-near-copy", ERROR, "A measured row nearly repeats a training row.", "Keep it in one."),
    ),
    "token": (
        ("template", ERROR, "The chat template fails, or does not keep every turn.", "Give another template."),
        ("too-long", ERROR, "The row is over `data.max_length`.", "Raise it, or set `data.on_long`."),
        ("nothing-learned", ERROR, "Nothing in the row is learned.", "Delete the row, or raise `data.max_length`."),
        ("answer-truncated", WARNING, "`data.max_length` cuts the answer.", "Raise it, or drop the row."),
        ("row-dropped", WARNING, "The row is over `data.max_length` and is dropped.", "Raise it to keep the row."),
        ("pair-tokens", ERROR, "Both answers of a pair are the same tokens.", "Raise `data.max_length`, or delete it."),
        ("all-dropped", ERROR, "Every row is over `data.max_length` and is dropped.", "Raise it."),
        ("stop-not-learned", WARNING, "No stop token is learned at the end of the answer.", "Give another template."),
        ("reasoning-unlearned", WARNING, "The template leaves reasoning out.", "Give another template."),
        ("row-unrolled", INFO, "The conversation becomes a row for each of its answers.", "Nothing."),
    ),
}  # fmt: skip

CODES: dict[str, Code] = {
    name: Code(name, group, severity, what, mend)
    for group, entries in TABLE.items()
    for name, severity, what, mend in entries
}


def page() -> Iterator[str]:
    """The lines of the tables, a table a group."""
    for group, heading in GROUPS.items():
        yield from ("", f"## {heading}", "", "| code | severity | what it is | what to do |", "|---|---|---|---|")
        for code in (code for code in CODES.values() if code.group == group):
            yield f"| `{code.name}` | {code.severity} | {code.what} | {code.mend} |"


def main(argv: Sequence[str]) -> int:
    """Write the page, or with `--check` say whether it is stale."""
    from finetune.data.codes_page import PAGE, text

    if list(argv) not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not argv:
        PAGE.write_text(text(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text():
        print(f"{PAGE.name} is stale; run python -m finetune.data.codes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

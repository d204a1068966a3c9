
import pytest
from families import FAMILIES

from finetune.data.encode import Encoder, Refused
from finetune.data.rows import Chat


def chat(*turns):
    return Chat(tuple({"role": r, "content": c} for r, c in turns))


def learned(tok, enc):
    out = []
    cur = []
    for i, l in zip(enc.input_ids, enc.labels):
        if l != -100:
            cur.append(l)
        elif cur:
            out.append(tok.decode(cur))
            cur = []
    if cur:
        out.append(tok.decode(cur))
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_x(name, family):
    tok = family(name)
    e = Encoder(tok)
    rows = [
        chat(("user", "Hello"), ("assistant", "Paris is.")),
        chat(
            ("system", "Be terse."),
            ("user", "hi"),
            ("assistant", "Oslo"),
            ("user", "and?"),
            ("assistant", "Paris"),
        ),
    ]
    for row, r in zip(rows, e.encode(rows)):
        print(name, r if isinstance(r, Refused) else (learned(tok, r), tok.decode(r.input_ids)))
    print(e._template and (e.template._skeletons.keys(), e.template.stop_tokens))

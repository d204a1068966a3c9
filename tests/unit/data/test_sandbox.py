"""Chat templates that eat memory or time, or fail, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune.data import sandbox
from finetune.data.encode import Encoder, Refused
from finetune.data.rows import Chat
from finetune.data.sandbox import TemplateFault
from finetune.errors import UserError

ROW = Chat(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oslo"}))
SOUND = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def encoder(make_tokenizer: Callable[..., Any], template: str) -> Encoder:
    """An encoder with a template of its own."""
    return Encoder(make_tokenizer(("<|end|>",), "<|end|>", None, template))


def test_sound_template_is_taken(make_tokenizer: Any) -> None:
    assert not isinstance(encoder(make_tokenizer, SOUND).encode([ROW])[0], Refused)


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 10**10 }}",
        "{% set x = namespace(a='aaaaaaaa') %}{% for i in range(40) %}{% set x.a = x.a ~ x.a %}{% endfor %}{{ x.a }}",
        "{{ '%10000000000d' % 1 }}",
    ],
)
def test_template_that_eats_memory_is_refused(bomb: str, make_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sandbox, "MAX_MEMORY", 200 * 1024**2)
    with pytest.raises(TemplateFault, match=r"needs more than|over the limit|raises"):
        _ = encoder(make_tokenizer, bomb + SOUND).template


def test_template_that_never_ends_is_refused(make_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.3)
    loop = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateFault, match=r"did not finish within 0\.3 s"):
        _ = encoder(make_tokenizer, loop + SOUND).template


def test_template_that_writes_too_much_is_refused(make_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("finetune.data.template.MAX_RENDERED", 1000)
    with pytest.raises(TemplateFault, match="over the limit of 1,000"):
        _ = encoder(make_tokenizer, "{{ 'a' * 2000 }}" + SOUND).template


def test_template_file_that_is_too_large_is_refused(make_tokenizer: Any) -> None:
    with pytest.raises(TemplateFault, match="over the limit of 256,000"):
        _ = encoder(make_tokenizer, "{# " + "a" * 300_000 + " #}" + SOUND).template


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "at line 1"),
        ("\n\n{{ messages[0].content + none }}", "at line 3"),
        (
            "{% for m in messages %}\n{{ raise_exception('no such thing') }}{% endfor %}",
            "at line 2: no such thing",
        ),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_failing_template_is_named_with_its_line(template: str, said: str, make_tokenizer: Any) -> None:
    with pytest.raises(TemplateFault) as caught:
        _ = encoder(make_tokenizer, template).template
    assert said in caught.value.what


def test_template_that_fails_on_one_row_names_the_row(
    make_tokenizer: Any, run_prepare: Callable[..., Any], write_rows: Callable[..., str]
) -> None:
    template = (
        "{% for m in messages %}\n{% if 'Oslo' in m.content %}{{ raise_exception('no Oslo') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = make_tokenizer(("<|end|>",), "<|end|>", None, template)
    good = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Paris"}]
    path = write_rows([{"messages": good}, {"messages": [*good[:1], {"role": "assistant", "content": "Oslo"}]}])
    with pytest.raises(UserError) as caught:
        run_prepare(path, tokenizer=tokenizer, eval_share=0)
    fault = caught.value.faults[0]
    assert fault.where == f"{path}:2" and "at line 2: no Oslo" in fault.what


def test_limits_are_lifted_afterwards(make_tokenizer: Any) -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)
    clock = signal.getitimer(signal.ITIMER_REAL)[0]  # that of the test run, if it has one
    encoder(make_tokenizer, SOUND).encode([ROW])
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)) == before
    assert clock - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= clock

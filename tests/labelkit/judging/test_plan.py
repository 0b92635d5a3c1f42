"""What a plan says is what a run then does; prices are read from a file that can be wrong."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from present import present

from labelkit.errors import DataError, UsageError
from labelkit.judging.options import PlanOptions
from labelkit.judging.plan import plan
from labelkit.judging.prices import dollars, price_of, read_prices
from labelkit.judging.reading import Reading
from labelkit.storage.labels import read_labels


def planned(pool, method="graded", *, engine="scripted", max_model_len=None, **options):
    fields = {"model": "overlap", "defence": ("none",)} | options
    return plan(pool, PlanOptions(engine=engine, method=method, max_model_len=max_model_len, **fields))


@pytest.mark.parametrize("method", ["graded", "binary"])
def test_calls_and_tokens_are_those_of_the_run(judge, wide, tmp_path, method):
    made = planned(wide, method)
    outcome = judge(wide, tmp_path / "labels", method=method)
    assert (made.pairs, made.calls, made.most_calls) == (300, 300, 300) == (outcome.pairs, outcome.asked, outcome.asked)
    judgements, _, _ = read_labels(tmp_path / "labels")
    # The scripted judge counts the words of the last turn alone.
    system = made.prompt_tokens - (sum(present(row.tokens) for row in judgements) - 300)
    assert system % 300 == 0
    assert made.prompt_tokens == made.most_prompt_tokens


@pytest.mark.parametrize("method", ["relsel", "utilsel", "utilrank"])
@pytest.mark.parametrize("permutations", [1, 3])
def test_a_run_stays_within_its_plan(judge, wide, tmp_path, method, permutations):
    reading = Reading(permutations=permutations)
    made = planned(wide, method, permutations=permutations)
    outcome = judge(wide, tmp_path / "labels", method=method, reading=reading)
    assert made.calls == 10 * permutations <= outcome.asked <= made.most_calls
    assert made.most_calls == made.calls * (1 if method == "relsel" else 3)
    assert outcome.tokens <= made.most_prompt_tokens + made.most_completion_tokens
    assert made.facts == outcome.facts


def test_a_prefix_cache_saves_rubric_and_query(wide):
    made = planned(wide)
    assert 0.5 * made.prompt_tokens < made.shared_tokens < made.prompt_tokens


def test_money_and_time(wide, tmp_path):
    (tmp_path / "prices.toml").write_text("[overlap]\nprompt = 2.0\ncompletion = 10.0\n")
    made = planned(wide, prices=tmp_path / "prices.toml", rate=5.0)
    assert made.usd == pytest.approx(made.prompt_tokens * 2e-6)
    assert made.most_usd == pytest.approx(made.usd + made.most_completion_tokens * 1e-5)
    assert made.seconds == 60


def test_without_a_tokenizer_bytes_are_an_upper_bound(wide):
    known, unknown = planned(wide), planned(wide, engine="openai")
    assert (known.counted, unknown.counted) == (True, False)
    assert unknown.prompt_tokens > known.prompt_tokens


def test_the_real_tokenizer_counts_the_chat_template_too(tiny_tokenizer, wide, tmp_path):
    served = planned(wide, engine="openai", tokenizer=str(tiny_tokenizer))
    assert served.counted
    assert 300 * 100 < served.prompt_tokens < planned(wide, engine="openai").prompt_tokens


@pytest.fixture
def tiny_tokenizer(tmp_path):
    """A byte-level tokenizer without merges: `tokenizer.json` alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["the passage"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    bpe.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_passages_are_cut_where_a_token_ends(tiny_tokenizer, write_beir, tmp_path):
    from labelkit.engines.tokenizers import FileTokens
    from labelkit.judging.pool_texts import PoolTexts, tables_of
    from labelkit.pooling.pool import make_pool

    text = "ünïcode red passage ☕ 你好世界 " * 30
    beir = write_beir(tmp_path / "b", {"a": ("", text), "s": ("", "red")}, {"q": "red"}, {})
    pool = make_pool(beir, tmp_path / "p")
    tokens = FileTokens(str(tiny_tokenizer))
    with PoolTexts(tables_of(pool), Reading(passage_tokens=50), tokens, scratch=tmp_path) as texts:
        (found,) = (texts[number] for number in range(len(texts)))
    whole = pool.passages["a"].full_text
    assert whole.startswith(found.passages["a"])
    assert 45 <= len(tokens.ends(found.passages["a"])) <= 52
    assert found.passages["s"] == "red"
    assert texts.facts == {"passage_tokens": 50, "cut_passages": 1}


def test_a_server_whose_context_is_told_gets_windows_that_fit(tiny_tokenizer, wide):
    assert planned(wide, "relsel", engine="openai").facts["most_windows"] == 1
    exact = planned(wide, "relsel", engine="openai", max_model_len=1100, tokenizer=str(tiny_tokenizer))
    bounded = planned(wide, "relsel", engine="openai", max_model_len=1100)
    assert bounded.facts["most_windows"] >= exact.facts["most_windows"] > 1
    assert exact.facts["queries_in_windows"] == 10


@pytest.mark.parametrize(
    ("engine", "options", "reason"),
    [
        ("openai", {"passage_tokens": 9}, "needs the server's tokenizer"),
        ("scripted", {"passage_tokens": 9, "passage_words": 9}, "not both"),
        ("scripted", {"permutations": 2}, "--permutations is for listwise methods"),
        ("scripted", {"prompt": "binary"}, "prompt 'binary' is for method 'binary'"),
        ("local", {"tokenizer": "x"}, "--tokenizer .* has no effect"),
    ],
)
def test_what_cannot_be_read_is_refused(wide, engine, options, reason):
    with pytest.raises(UsageError, match=reason):
        planned(wide, engine=engine, **options)


def test_without_a_tokenizer_passages_are_cut_by_words(wide):
    assert planned(wide, engine="openai").facts == {"passage_words": 300, "cut_passages": 0}
    assert planned(wide).facts == {"passage_tokens": 400, "cut_passages": 0}


def test_the_command_says_what_is_unknown(labelkit, pool):
    called = labelkit("plan", pool, "--model", "overlap", "--engine", "scripted")
    assert called.code == 0, called.err
    assert "prices.toml has no price for 'overlap'; add it to a copy of the file and give --prices COPY" in called.out
    assert "hours" not in called.out
    as_json = labelkit("plan", pool, "--model", "gpt-4o-mini", "--engine", "openai", "--rate", "10", "--json")
    document = json.loads(as_json.out)
    assert document["counted"] is False
    assert document["most_usd"] > document["usd"] > 0
    assert document["seconds"] == document["calls"] / 10


def test_the_batch_api_has_its_share(tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text('["m/x"]\nprompt = 2\ncompletion = 8\nbatch = 0.5\n')
    assert present(price_of("m/x", file, batch=False)).usd(1_000_000, 500_000) == 6
    assert present(price_of("m/x", file, batch=True)).usd(1_000_000, 500_000) == 3
    assert price_of("other", file, batch=False) is None
    assert price_of("gpt-4o-mini", None, batch=False) is not None


@pytest.mark.parametrize(
    "content",
    [
        *[
            "[m]\nprompt = -1\ncompletion = 1",
            "[m]\nprompt = 1",
            "prompt = 1",
            "[m]\nprompt = inf\ncompletion = 1",
            "[m",
        ],
        *["[m]\nprompt = nan\ncompletion = 1", "[m]\nprompt = 1\ncompletion = 1\nbatch = nan"],
        "[m]\nprompt = 1e300\ncompletion = 1",
    ],
)
def test_a_wrong_price_file_is_named(tmp_path, content):
    (tmp_path / "prices.toml").write_text(content)
    with pytest.raises(DataError, match=r"prices\.toml: "):
        price_of("m", tmp_path / "prices.toml", batch=False)


def test_every_shipped_price_has_a_date_a_source_and_a_context():
    found = read_prices(None)
    assert found.date is not None
    assert len(found.prices) >= 15
    for name, price in found.prices.items():
        assert present(price.source).startswith("https://"), name
        assert present(price.context) >= 100_000, name
        assert 0 < price.prompt < price.completion, name


PRICED = """
date = {date}
[overlap]
prompt = 2.0
completion = 10.0
batch = 0.5
context = {context}
source = "https://example.org/prices"
note = "half of it at night"
"""


@pytest.mark.parametrize(
    ("days", "said"),
    [(0, "0 days old; half"), (1, "1 day old; half"), (89, "89 days old; half"), (90, "90 days old; check them")],
)
def test_plan_and_annotate_say_the_age_of_a_price(labelkit, wide, tmp_path, days, said):
    checked = datetime.now(UTC).date() - timedelta(days=days)
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICED.format(date=checked, context=50_000))
    words = [tmp_path / "wide.pool", "--engine", "scripted", "--model", "overlap", "--prices", prices, "--limit", "3"]
    planned, run = labelkit("plan", *words), labelkit("annotate", *words, "-o", tmp_path / "labels")
    for printed in (planned.out, run.err):
        assert (
            "price of overlap: 2 US dollars per million tokens of prompts and 10 of answers; context 50,000" in printed
        )
        assert f"from prices.toml of {checked}, {said}" in printed
        assert "half of it at night; https://example.org/prices" in printed
    assert "of a context of 50,000" in planned.out


def test_a_model_without_a_price_is_answered_with_the_names_that_resemble_it(labelkit, pool, tmp_path):
    words = (pool, "--engine", "openai", "--model", "openai/gpt-5")
    close = "has no price for 'openai/gpt-5'; it has gpt-"
    assert close in labelkit("plan", *words).out
    assert close in labelkit("annotate", *words, "--max-usd", 1, "-o", tmp_path / "labels").err


@pytest.mark.parametrize(
    ("usd", "text"), [(0, "0.00"), (1234.567, "1,234.57"), (0.5, "0.50"), (0.00287, "0.0029"), (3e-7, "0.00000030")]
)
def test_small_amounts_of_money_keep_two_digits(usd, text):
    assert dollars(usd) == text


def test_the_plan_of_a_small_pool_is_not_free(labelkit, pool):
    planned = labelkit("plan", pool, "--engine", "openai", "--model", "gpt-5-nano").out
    assert re.search(r"US dollars         0\.0\d*[1-9]\d* for the prompts of the first step, 0\.0\d*[1-9]", planned), (
        planned
    )


def test_a_plan_warns_of_requests_that_exceed_the_context(labelkit, wide, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICED.format(date="2026-11-26", context=20))
    words = [tmp_path / "wide.pool", "--engine", "scripted", "--model", "overlap", "--prices", prices]
    assert "more than the context of 20; shorten passages with --passage-tokens" in labelkit("plan", *words).out


def test_lists_are_split_to_the_context_of_the_price_file(judge, wide, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICED.format(date="2026-11-26", context=400))
    made = planned(wide, "relsel", prices=prices)
    outcome = judge(wide, tmp_path / "labels", method="relsel", prices=prices)
    assert made.facts == outcome.facts
    assert made.facts["most_windows"] > 1
    assert made.longest_tokens <= present(made.context) == 400
    assert planned(wide, "relsel").facts["most_windows"] == 1


def test_a_date_that_is_none_is_named(tmp_path):
    (tmp_path / "prices.toml").write_text('date = "yesterday"')
    with pytest.raises(DataError, match="date: expected a date such as"):
        read_prices(tmp_path / "prices.toml")

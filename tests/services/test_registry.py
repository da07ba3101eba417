import sys
from pathlib import Path

import pytest

from events.control import CONTROL
from events.errors import InvalidInput, Misconfigured, NotFound
from events.spec import AgentSpec, Chunking, Limits
from services.agents.cassette import Cassette
from services.agents.open import open_model
from services.agents.registry import TOOLS, Registry
from services.agents.scripted import Scripted
from services.tools import toolbox


def written(tmp_path: Path, text: str) -> Path:
    """An operator's file."""
    path = tmp_path / "agents.toml"
    path.write_text(text)
    return path


def complaints(tmp_path: Path, text: str) -> list[str]:
    """What is said about a file, line by line, without the file's name."""
    path = written(tmp_path, text)
    with pytest.raises(Misconfigured) as caught:
        Registry.load(path)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def plugin(folder: Path, target: str, code: str, name: str = "crew") -> None:
    """An installed distribution with one entry point."""
    folder.mkdir(parents=True)
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[wakestream.agents]\n{name} = {target}\n")
    (folder / f"{name}_agents.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that Python imports from; its modules are forgotten afterwards."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, "crew_agents", None)
    monkeypatch.delitem(sys.modules, "crew_agents")
    return folder


@pytest.mark.parametrize(
    ("name", "steps", "tokens", "timeout", "lane", "chunking"),
    [
        ("explorer", 20, 20_000, 120, "agents", None),
        ("coder", 20, 20_000, 120, "agents", None),
        ("researcher", 20, 20_000, 120, "agents_long", Chunking()),
        ("code-assistant", 50, 50_000, 300, "agents", None),
        ("research", 100, 100_000, 1800, "agents_long", Chunking()),
        ("code-review", 30, 30_000, 180, "agents", None),
    ],
)
def test_built_in(
    name: str,
    steps: int,
    tokens: int,
    timeout: float,
    lane: str,
    chunking: Chunking | None,
) -> None:
    """Each type has its limits, its lane and a prompt, and works without a key."""
    spec = Registry.load().spec(name)
    assert spec.limits == Limits(max_steps=steps, max_tokens=tokens, timeout=timeout)
    assert (spec.lane, spec.chunking) == (lane, chunking)
    assert spec.model == "scripted"
    assert spec.system_prompt
    assert spec.description


def test_only_tools_that_exist() -> None:
    """Those of the tools there are, and those that the core answers."""
    assert set(TOOLS) == {*toolbox.TOOLS, *CONTROL}


def test_who_may_ask_the_user() -> None:
    """Whoever changes something or works for long; the others never wait."""
    registry = Registry.load()
    asking = {n for n in registry.names() if "ask_user" in registry.spec(n).tools}
    assert asking == {"coder", "code-assistant", "research"}


def test_tools_that_the_core_answers_need_not_be_offered(tmp_path: Path) -> None:
    """They are in no toolbox, and stay in the agent in their place."""
    text = """
[agents.lead]
tools = ["ask_user", "bash", "await_event", "spawn_agent"]
subagents = ["coder"]
approvals = ["spawn_agent"]
"""
    registry = Registry.load(written(tmp_path, text))
    spec = registry.resolve("lead", effects=toolbox.TOOLS, offered=["list_dir"])
    assert spec.tools == ("ask_user", "await_event", "spawn_agent")
    assert spec.approvals == ("spawn_agent",)


def test_reviews_cannot_change_files() -> None:
    """The reviewer is not given a tool that writes into the workspace."""
    tools = Registry.load().spec("code-review").tools
    assert not {"write_file", "edit_file"} & set(tools)


def test_an_unknown_type_is_named_with_the_nearest() -> None:
    """The complaint says what was probably meant and what there is."""
    with pytest.raises(NotFound) as caught:
        Registry.load().spec("explorr")
    assert str(caught.value) == (
        "no agent type 'explorr'; did you mean 'explorer'? There are: "
        "code-assistant, code-review, coder, explorer, research, researcher."
    )


def test_resolve_restricts_to_what_is_offered() -> None:
    """Without a sandbox there is no bash, nor an effect or an approval of it."""
    registry = Registry(
        {"a": AgentSpec(name="a", tools=("bash", "list_dir"), approvals=("bash",))}
    )
    spec = registry.resolve(
        "a",
        effects={"bash": "irreversible", "list_dir": "read", "write_file": "read"},
        offered=["list_dir", "write_file"],
    )
    assert spec.tools == ("list_dir",)
    assert spec.effects == {"list_dir": "read"}
    assert spec.approvals == ()
    assert spec.effect("bash") == "irreversible"


def test_resolve_takes_another_model() -> None:
    """The model named at the start counts, else the type's own."""
    registry = Registry.load()
    effects = toolbox.TOOLS
    other = registry.resolve("coder", model="test:x", effects=effects, offered=TOOLS)
    same = registry.resolve("coder", effects=effects, offered=TOOLS)
    assert (other.model, same.model) == ("test:x", "scripted")
    assert same.tools == registry.spec("coder").tools
    assert registry.spec("coder").effects == {}


def test_a_type_may_know_better_what_its_tools_do(tmp_path: Path) -> None:
    """An effect that the operator writes down counts for that type alone."""
    text = '[agents.counter]\ntools = ["bash"]\neffects = { bash = "read" }\n'
    registry = Registry.load(written(tmp_path, text))
    effects = toolbox.TOOLS
    counter = registry.resolve("counter", effects=effects, offered=TOOLS)
    coder = registry.resolve("coder", effects=effects, offered=TOOLS)
    assert counter.effect("bash") == "read"
    assert coder.effect("bash") == "irreversible"


def test_a_file_adds_and_changes_types(tmp_path: Path) -> None:
    """A built-in type keeps every key that the file does not name."""
    text = """
[agents.coder]
limits = { max_steps = 7 }
[agents.scout]
description = "Looks."
tools = ["list_dir"]
subagents = ["coder"]
limits = { timeout = 1, max_cost = 0.5 }
"""
    registry = Registry.load(written(tmp_path, text))
    before = Registry.load().spec("coder")
    after = registry.spec("coder")
    assert after.limits.max_steps == 7
    assert after.tools == before.tools
    assert registry.spec("scout").subagents == ("coder",)
    assert "scout" in registry.names()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[agents.a]\nmodle = 'x'",
            "agents.a.modle: unknown key; did you mean 'model'?",
        ),
        ("[agents.a]\nzzz = 1", "agents.a.zzz: unknown key."),
        (
            "[agents.a.limits]\nmax_step = 3",
            "agents.a.limits.max_step: unknown key; did you mean 'max_steps'?",
        ),
        ("[agent.a]\n", "agent: unknown key; write tables named [agents.NAME]"),
        ("agents = 3", "agents: must be a table"),
        ("[agents]\na = 3", "agents.a: must be a table"),
        ("[agents.a]\nlimits = 3", "agents.a.limits: expected `object`, got `int`"),
        (
            "[agents.a]\nlimits = { max_steps = 'x' }",
            "agents.a.limits.max_steps: expected `int`, got `str`",
        ),
        (
            "[agents.a]\ntools = ['spawn_agent']",
            "agents.a.tools: 'spawn_agent' is of no use without subagents: name them",
        ),
        ("[agents.a]\nmodel = 1", "agents.a.model: expected `str`, got `int`"),
        ("[agents.a]\nmodel = ' '", "agents.a.model: must not be empty"),
        ("[agents.a]\nname = 'b'", "agents.a.name: leave it out"),
        (
            "[agents.a]\ntools = ['bsh']",
            "agents.a.tools: unknown tool 'bsh'; did you mean 'bash'?",
        ),
        (
            "[agents.a]\ntools = ['bash', 'bash']",
            "agents.a.tools: 'bash' is there twice",
        ),
        (
            "[agents.a]\nsubagents = ['codr']",
            "agents.a.subagents: unknown agent type 'codr'; did you mean 'coder'?",
        ),
        (
            "[agents.a]\napprovals = ['bash']",
            "agents.a.approvals: not among its tools: 'bash'",
        ),
        (
            "[agents.a]\nlane = 'agent'",
            "agents.a.lane: invalid enum value 'agent': must be one of agents, ",
        ),
        (
            "[agents.a]\ntools = ['bash']\neffects = { bash = 'reads' }",
            "agents.a.effects[...]: invalid enum value 'reads': must be one of read, ",
        ),
        (
            "[agents.a]\nlimits = { max_tokens = -1 }",
            "agents.a.limits.max_tokens: must be more than 0 and at most 1,",
        ),
        ("[agents.a]\nlimits = { timeout = nan }", "agents.a.limits.timeout: must be"),
        ("[agents.a]\nlimits = { timeout = inf }", "agents.a.limits.timeout: must be"),
        (
            "[agents.a]\nlimits = { max_cost = -0.1 }",
            "agents.a.limits.max_cost: must be 0",
        ),
        (f"[agents.a]\nmax_depth = {10**400}", "agents.a.max_depth: "),
        (
            "[agents.a]\nchunking = { steps_per_chunk = 0 }",
            "agents.a.chunking.steps_per_chunk: must be more than 0",
        ),
        ("[agents.'a b']\n", "agents.a b: a name has 1 to 64 of the characters"),
        ("[agents.a]\nmodel = 2020-01-01", "agents.a.model: expected `str`"),
        ("[agents.a\n", "not valid TOML: "),
    ],
)
def test_a_mistake_is_one_line_with_its_key(
    tmp_path: Path, text: str, complaint: str
) -> None:
    """Whatever is wrong, the line names file and key and what to write."""
    (line,) = complaints(tmp_path, text)
    assert line.startswith(complaint)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Several tables with mistakes give a line for each mistake."""
    text = "[agents.a]\nx1 = 1\ny2 = 2\n[agents.coder]\nlimits = { max_steps = 0 }\n"
    assert len(complaints(tmp_path, text)) == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, a directory or no text is named."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", tmp_path, binary):
        with pytest.raises(Misconfigured, match="cannot be read") as caught:
            Registry.load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("target", ["crew_agents:SPEC", "crew_agents:make"])
def test_a_plugin_adds_a_type(site: Path, target: str) -> None:
    """An entry point may be a spec or a callable that returns one."""
    code = (
        "from events.spec import AgentSpec\n"
        "SPEC = AgentSpec(name='sailor', tools=('bash',), max_depth=1)\n"
        "def make(): return SPEC\n"
    )
    plugin(site, target, code)
    spec = Registry.load().spec("sailor")
    assert spec == AgentSpec(name="sailor", tools=("bash",), max_depth=1)


def test_the_file_may_change_a_plugins_type(site: Path, tmp_path: Path) -> None:
    """The operator has the last word, key by key."""
    code = (
        "from events.spec import AgentSpec\nS = AgentSpec(name='s', tools=('bash',))\n"
    )
    plugin(site, "crew_agents:S", code)
    registry = Registry.load(written(tmp_path, "[agents.s]\nmodel = 'm'\n"))
    assert registry.spec("s") == AgentSpec(name="s", tools=("bash",), model="m")


@pytest.mark.parametrize(
    ("target", "code", "complaint"),
    [
        ("crew_agents:X", "", "crew = crew_agents:X: cannot be loaded"),
        ("nowhere_at_all:X", "", "crew = nowhere_at_all:X: cannot be loaded"),
        ("crew_agents:X", "X = 3", "must be or return an AgentSpec, is 3"),
        (
            "crew_agents:X",
            "from events.spec import AgentSpec\nX = AgentSpec(name='coder')",
            "the name 'coder' is taken by builtin.toml",
        ),
        (
            "crew_agents:X",
            "import events.spec as e\nX = e.AgentSpec(name='s', tools=('axe',))",
            "crew = crew_agents:X: agents.s.tools: unknown tool 'axe'",
        ),
    ],
)
def test_a_plugin_that_is_wrong(
    site: Path, target: str, code: str, complaint: str
) -> None:
    """The entry point is named; a plugin cannot replace a type that is there."""
    plugin(site, target, code)
    with pytest.raises(Misconfigured) as caught:
        Registry.load()
    assert complaint in str(caught.value)


def test_tools_of_others_may_be_allowed(tmp_path: Path) -> None:
    """The caller says which tools there are."""
    path = written(tmp_path, "[agents.a]\ntools = ['axe']\n")
    registry = Registry.load(path, tools=[*TOOLS, "axe"])
    assert registry.spec("a").tools == ("axe",)


def test_a_name_means_a_model(tmp_path: Path) -> None:
    """The scripted model and cassettes are opened by their names."""
    (tmp_path / "c.jsonl").touch()
    assert isinstance(open_model("scripted"), Scripted)
    assert isinstance(open_model(f"cassette:{tmp_path / 'c.jsonl'}"), Cassette)
    with pytest.raises((InvalidInput, Misconfigured)):
        open_model("no-such-provider:x")

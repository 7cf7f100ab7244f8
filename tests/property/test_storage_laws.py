import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.errors import PublishError
from nightcast.storage import LocalStore

KEYS = st.sampled_from(["a", "a2", "b/c", "b/d/e"])
DATA = st.binary(max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS, DATA),
        st.tuples(st.just("swap"), KEYS, DATA),
        st.tuples(st.just("stale swap"), KEYS, DATA),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_the_store_behaves_like_a_dictionary_that_refuses_lost_updates(steps: list[tuple[str, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, model = LocalStore(folder), dict[str, bytes]()
        for action, key, data in steps:
            held = model.get(key)
            if action == "write":
                try:
                    assert store.write_once(key, data) is (held is None)
                    model.setdefault(key, data)
                    assert model[key] == data
                except PublishError:
                    assert held is not None
                    assert held != data
            elif action == "swap":
                tag = None if held is None else store.read_with_tag(key)[1]
                store.compare_and_swap(key, data, tag)
                model[key] = data
            else:
                try:
                    store.compare_and_swap(key, data, "a tag nobody has")
                    assert held == data
                except PublishError:
                    assert held != data
            assert store.list() == sorted(model)
            assert {name: store.read(name) for name in model} == model

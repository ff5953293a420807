import pytest


@pytest.fixture(params=[False, True])
def jit_compile(request, backend):
    """Whether training is compiled, for each mode that is usual on the backend."""
    if backend == "torch" and request.param:
        pytest.skip("torch.compile is checked by check_layer and test_torch_compile.py")
    if backend == "jax" and not request.param:
        pytest.skip("op by op JAX takes minutes, and its steps differ from run to run")
    return request.param

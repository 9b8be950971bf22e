"""What the weights of recurrent operations must be: their kernels read them by the sizes of input and state."""

from tracer.ops.constraints import Constraint, Operands, seen, wrong


def recurrent(gates: int) -> Constraint:
    """Input (time, example, feature), states (layer, example, hidden) and the parameters of every layer agree.

    gates: rows of a weight for each hidden unit: LSTM 4, GRU 3, plain 1.
    """

    def holds(operands: Operands) -> str | None:
        inputs, hx, params = operands["input"], operands["hx"], operands["params"]
        states = list(hx) if isinstance(hx, list | tuple) else [hx]
        if inputs.ndim != 3 or 0 in inputs.shape or not inputs.is_floating_point():
            return wrong("input", inputs, "be floating-point with three axes, none empty")
        if len(states) != (2 if gates == 4 else 1) or any(state.ndim != 3 for state in states):
            return wrong("hx", hx, "be the state with three axes (an LSTM's two)")
        if any(tensor.dtype != inputs.dtype for tensor in [*states, *params]):
            return wrong("params", list(params), f"be of the dtype of input, {seen(inputs)}, and hx too")
        out, hidden = states[0].shape[2], states[-1].shape[2]
        sides = 2 if operands["bidirectional"] else 1
        n = operands["num_layers"] * sides
        batch = inputs.shape[0 if operands["batch_first"] else 1]
        for state, width in zip(states, (out, hidden), strict=False):
            if list(state.shape) != [n, batch, width] or not width:
                return wrong("hx", hx, f"have shape {[n, batch, width]}")
        wanted: list[list[int]] = []
        for layer in range(operands["num_layers"] if n <= len(params) else 0):
            width = out * sides if layer else inputs.shape[2]
            one = [[gates * hidden, width], [gates * hidden, out]]
            one += [[gates * hidden]] * 2 if operands["has_biases"] else []
            one += [[out, hidden]] if out != hidden else []
            wanted += one * sides
        if [list(tensor.shape) for tensor in params] == wanted and wanted:
            return None
        return wrong("params", list(params), f"have shapes {seen(wanted)}")

    return holds


def cell(gates: int) -> Constraint:
    """One step of the same."""

    def holds(operands: Operands) -> str | None:
        inputs, hx = operands["input"], operands["hx"]
        states = list(hx) if isinstance(hx, list | tuple) else [hx]
        if inputs.ndim != 2 or len(states) != (2 if gates == 4 else 1) or states[0].ndim != 2:
            return wrong("input", inputs, "have two axes, and hx the state (an LSTM's two)")
        (batch, width), hidden = inputs.shape, states[0].shape[1]
        if any(list(state.shape) != [batch, hidden] for state in states):
            return wrong("hx", hx, f"have shape {[batch, hidden]}")
        for name, shape in (
            ("w_ih", [gates * hidden, width]),
            ("w_hh", [gates * hidden, hidden]),
            ("b_ih", [gates * hidden]),
            ("b_hh", [gates * hidden]),
        ):
            if operands[name] is not None and list(operands[name].shape) != shape:
                return wrong(name, operands[name], f"have shape {shape}")
        return None

    return holds

"""Where the tensors in a notebook's cells lie, as far as the text of the cells tells: on the CPU, on the models' device (a GPU,
where there is one), or unknown. What mixes the two would stop on a GPU, and runs without one."""

import ast

CPU, GPU, MODELS = "cpu", "gpu", "models"  # MODELS: objects that move what they are given to their own place
MAKE = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros"}
SAME_PLACE = {  # what leaves a tensor or a network where it is, or joins tensors of one place
    "abs", "add", "cat", "chunk", "chunks", "clamp", "clone", "contiguous", "cos", "cosine_similarity", "detach",
    "double", "einsum", "eval", "exp", "expand", "flatten", "flip", "float", "interpolate", "lerp", "long", "matmul",
    "mse_loss", "mul", "norm", "pad", "permute", "relu", "repeat", "repeat_interleave", "requires_grad_", "reshape",
    "roll", "sigmoid", "sin", "softmax", "split", "sqrt", "square", "squeeze", "stack", "to_model", "train",
    "transpose", "unsqueeze", "view", "where", "zip",
}  # fmt: skip
NETWORK_PARTS = {"unet", "vae", "text_encoder", "text_model", "vision_model"}
LOADED = {"load_clip", "load_judge", "load_baseline"}  # these take the models' device
BUILT = {"build", "build_clip", "build_unet", "build_vae", "from_pretrained"}  # these do not
ON_CPU = {"images", "masks", "alphas_cumprod", "input_ids"}  # attributes
OF_TENSOR = {
    "T", "data", "grad", "last_hidden_state", "latent_dist", "mean", "mT", "pred_original_sample", "prev_sample",
    "sample", "std", "weight", "bias",
}  # fmt: skip
DEPTH = 4  # of calls that are followed


class Places:
    """Follows the cells of a notebook. ``faults`` are the expressions that would stop on a GPU."""

    def __init__(self):
        self.names: dict[str, object] = {}  # a place, or a function, or None
        self.faults: list[str] = []
        self.depth = 0

    def cell(self, text: str) -> None:
        """Follow one cell, with what earlier cells have set."""
        plain = [line for line in text.splitlines() if not line.lstrip().startswith(("%", "!"))]
        self.body(ast.parse("\n".join(plain)).body)

    def body(self, statements: list[ast.stmt]) -> object:
        """Follow statements; the place of what is returned, if it is known and always the same."""
        found = {self.statement(statement) for statement in statements} - {None}
        return found.pop() if len(found) == 1 else None

    def statement(self, node: ast.stmt) -> object:
        match node:
            case ast.FunctionDef():
                self.names[node.name] = node
            case ast.ClassDef():
                self.names[node.name] = "class"
            case ast.Return():
                return self.place(node.value) if node.value else None
            case ast.Assign():
                place = self.place(node.value)
                for target in node.targets:
                    self.assign(target, node.value, place)
            case ast.AugAssign():
                self.meet(node, [self.place(node.target), self.place(node.value)])
            case ast.For():
                self.assign(node.target, node.iter, self.place(node.iter))
                return self.body(node.body)
            case ast.With():
                if any("meta" in ast.unparse(item) for item in node.items):
                    return None  # made there, and nowhere else
                for item in node.items:
                    self.place(item.context_expr)
                return self.body(node.body)
            case ast.If():
                self.place(node.test)
                return self.body([*node.body, *node.orelse])
            case ast.Expr():
                self.place(node.value)
        return None

    def assign(self, target: ast.expr, value: ast.expr, place: object) -> None:
        match target:
            case ast.Name():
                self.names[target.id] = place
            case ast.Tuple(elts=parts):
                values = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(parts) else None
                for i, part in enumerate(parts):
                    self.assign(part, values[i] if values else value, self.place(values[i]) if values else place)

    def place(self, node: ast.expr) -> object:
        """Where the value of an expression lies."""
        match node:
            case ast.Name():
                found = self.names.get(node.id)
                return found if found in (CPU, GPU, MODELS) else None
            case ast.Call():
                return self.call(node)
            case ast.BinOp():
                return self.meet(node, [self.place(node.left), self.place(node.right)])
            case ast.UnaryOp():
                return self.place(node.operand)
            case ast.Subscript():
                single = isinstance(node.slice, ast.Name | ast.Constant | ast.BinOp)  # a single number may lie anywhere
                return None if single and self.place(node.slice) is None else self.place(node.value)
            case ast.Starred():
                return self.place(node.value)
            case ast.Attribute():
                owner = self.place(node.value)
                if node.attr in ON_CPU:
                    return CPU
                if node.attr in NETWORK_PARTS and owner in (MODELS, GPU):
                    return GPU
                return owner if node.attr in OF_TENSOR and owner != MODELS else None
            case ast.List() | ast.Tuple():
                found = {self.place(part) for part in node.elts}
                return found.pop() if len(found) == 1 else None
            case ast.ListComp() | ast.GeneratorExp():
                before = dict(self.names)
                for loop in node.generators:
                    self.assign(loop.target, loop.iter, self.place(loop.iter))
                found = self.place(node.elt)
                self.names = before
                return found
            case ast.Dict():
                for part in node.values:
                    self.place(part)
            case ast.Lambda() | ast.DictComp() | ast.Constant():
                return None
        return None

    def meet(self, node: ast.AST, places: list) -> object:
        """The one place of all, as far as it is known; a fault where there are two."""
        known = {place for place in places if place in (CPU, GPU)}
        if len(known) > 1:
            self.faults.append(ast.unparse(node))
        return known.pop() if len(known) == 1 else None

    def call(self, node: ast.Call) -> object:
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        places = [self.place(part) for part in [*node.args, *named.values()]]
        if isinstance(node.func, ast.Attribute):
            owner, name = node.func.value, node.func.attr
            of_library = isinstance(owner, ast.Name) and owner.id in ("torch", "F", "nn")
            lies = None if of_library else self.place(owner)
            if of_library and name in MAKE:
                return self.made(node, name, named)
            if name in ("cpu", "numpy", "tolist", "item"):
                return CPU if name in ("cpu", "numpy") else None
            if name == "to" and node.args:
                return lies if ast.unparse(node.args[0]).startswith("torch.") else self.device(node.args[0])
            if name in ("encode", "decode", "encode_text") and lies == MODELS:
                return GPU
            if (name in NETWORK_PARTS and lies in (MODELS, GPU)) or (
                name in ("encode", "decode", "sample", "mode") and lies == GPU
            ):
                return self.meet(node, [GPU, *places])
            if name in BUILT:
                return CPU
            if name == "add_noise" or (of_library and name in SAME_PLACE):
                return self.meet(node, places)
            return lies if name in SAME_PLACE and lies != MODELS else None
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        bound = self.names.get(name)
        if isinstance(bound, ast.FunctionDef):
            return self.follow(bound, node, named)
        if name == "load_models" or (name == "replace" and MODELS in places):
            return MODELS if "device" not in named or "device" in ast.unparse(named["device"]) else None
        if name == "initial_latents":
            return GPU if MODELS in places else None
        if name in LOADED:
            return self.device(named["device"]) if "device" in named else GPU
        if name in BUILT or bound == "class":
            return self.meet(node, places) or CPU
        if name == "add_noise" or name in SAME_PLACE:
            return self.meet(node, places)
        return self.meet(node, [bound, *places]) if bound in (CPU, GPU) else None

    def device(self, node: ast.expr) -> object:
        """What place ``device``, ``models.device``, ``x.device``, ``x`` or "cpu" names."""
        if ast.unparse(node) in ("device", "models.device"):
            return GPU
        if isinstance(node, ast.Constant):
            return CPU if node.value == "cpu" else None
        owner = node.value if isinstance(node, ast.Attribute) and node.attr == "device" else node
        found = self.place(owner)
        return GPU if found == MODELS else found

    def made(self, node: ast.Call, name: str, named: dict) -> object:
        """Where ``torch.zeros(...)`` and the like make their tensor. A single number may lie anywhere."""
        if "device" in named:
            return self.device(named["device"])
        single = name == "tensor" and not isinstance(node.args[0], ast.List | ast.ListComp | ast.Tuple | ast.Name)
        return None if single else CPU

    def follow(self, function: ast.FunctionDef, node: ast.Call, named: dict) -> object:
        """Follow a call of a function of the notebook."""
        if self.depth == DEPTH:
            return None
        outer, self.names = self.names, dict(self.names)
        given = dict(zip([argument.arg for argument in function.args.args], node.args, strict=False)) | named
        inside = {}
        for argument in [*function.args.args, *function.args.kwonlyargs]:
            value = given.get(argument.arg)
            known = outer.get(value.id) if isinstance(value, ast.Name) else None
            inside[argument.arg] = known if isinstance(known, ast.FunctionDef) else self.place(value) if value else None
        self.names |= inside
        self.depth += 1
        found = self.body(function.body)
        self.depth -= 1
        self.names = outer
        return found

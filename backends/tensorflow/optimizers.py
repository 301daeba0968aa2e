"""The update rules of common/config.py, and the moments of the portable state in and out of an optimizer."""

import keras
import tensorflow as tf
from jaxtyping import Float

from backends.tensorflow.shapes import Quantities, checked
from common import config
from common.parameters import State, decays


class Optimizer(keras.optimizers.Optimizer):
    """Moments of the gradient, in the parameters' dtype; decoupled weight decay. `rate` is the learning rate of the step."""

    def __init__(self, settings: config.Optimizer, names: list[str], dtype: str):
        super().__init__(learning_rate=self._rate)
        self.decay = [settings.weight_decay if decays(name, settings) else 0.0 for name in names]
        self.rate: tf.Variable = tf.Variable(settings.learning_rate, dtype=dtype, trainable=False)
        self.settings = settings

    def _rate(self) -> tf.Variable:
        return self.rate

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.first, self.second = self.add_optimizer_variables(variables, ["first_moment", "second_moment"])

    @checked
    def update_step(
        self,
        gradient: Float[tf.Tensor, "*shape"],
        variable: Float[tf.Variable, "*shape"],
        learning_rate: Float[tf.Variable, ""],
    ) -> None:
        i = self._get_variable_index(variable)
        direction = self.direction(gradient, self.first[i], self.second[i])
        self.assign(variable, (1 - learning_rate * self.decay[i]) * variable - learning_rate * direction)

    @checked
    def direction(
        self,
        gradient: Float[tf.Tensor, "*shape"],
        first: Float[keras.Variable, "*shape"],
        second: Float[keras.Variable, "*shape"],
    ) -> Float[tf.Tensor, "*shape"]:
        """The direction of descent, after updating the moments."""
        raise NotImplementedError


class Adam(Optimizer):
    """m̂/(√v̂ + ε) (Kingma and Ba 2015, algorithm 1). Keras's own adds ε to the root of v before its bias is corrected."""

    @checked
    def direction(
        self,
        gradient: Float[tf.Tensor, "*shape"],
        first: Float[keras.Variable, "*shape"],
        second: Float[keras.Variable, "*shape"],
    ) -> Float[tf.Tensor, "*shape"]:
        beta1, beta2 = self.settings.adam_beta1, self.settings.adam_beta2
        t = tf.cast(self.iterations + 1, gradient.dtype)
        self.assign(first, beta1 * first + (1 - beta1) * gradient)
        self.assign(second, beta2 * second + (1 - beta2) * tf.square(gradient))
        m = first / (1 - tf.pow(tf.constant(beta1, gradient.dtype), t))
        v = second / (1 - tf.pow(tf.constant(beta2, gradient.dtype), t))
        return m / (tf.sqrt(v) + self.settings.adam_epsilon)


class RMSprop(Optimizer):
    """g/(√v + ε) or g/√(v + ε), where Keras has only the latter; centered: v − m² in place of v."""

    @checked
    def direction(
        self,
        gradient: Float[tf.Tensor, "*shape"],
        first: Float[keras.Variable, "*shape"],
        second: Float[keras.Variable, "*shape"],
    ) -> Float[tf.Tensor, "*shape"]:
        decay, epsilon = self.settings.rmsprop_decay, self.settings.rmsprop_epsilon
        self.assign(second, decay * second + (1 - decay) * tf.square(gradient))
        v = second.value
        if self.settings.rmsprop_centered:
            self.assign(first, decay * first + (1 - decay) * gradient)
            v = v - tf.square(first)
        return gradient / (tf.sqrt(v + epsilon) if self.settings.rmsprop_epsilon_in_root else tf.sqrt(v) + epsilon)


def create(settings: config.Optimizer, names: list[str], dtype: str) -> Optimizer:
    """The optimizer of parameters of these names, not yet built on its variables."""
    return {"adam": Adam, "rmsprop": RMSprop}[settings.optimizer](settings, names, dtype)


@checked
def clipped(gradients: Quantities, settings: config.Optimizer) -> Quantities:
    """g·clip/max(‖g‖, clip), ‖g‖ the norm of all gradients together; g itself where `clip` is 0 (Pascanu et al. 2013)."""
    if not settings.clip:
        return gradients
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients.values()]))
    factor = settings.clip / tf.maximum(norm, settings.clip)
    return {name: factor * gradient for name, gradient in gradients.items()}


def load_moments(
    optimizer: Optimizer, parameters: dict[str, keras.Variable], moments: State, step: int, settings: config.Optimizer
) -> None:
    """Set the moments (`first_moment/NAME` … → array) and the number of steps done."""
    for name, own in _slots(optimizer, parameters, settings).items():
        own.assign(moments[name].astype(own.dtype))
    optimizer.iterations.assign(step)


def moments(
    optimizer: Optimizer, parameters: dict[str, keras.Variable], settings: config.Optimizer
) -> dict[str, keras.Variable]:
    """The inverse of `load_moments`."""
    return _slots(optimizer, parameters, settings)


def _slots(
    optimizer: Optimizer, parameters: dict[str, keras.Variable], settings: config.Optimizer
) -> dict[str, keras.Variable]:
    """`first_moment/NAME` … → the optimizer's variable. The optimizer was built on these parameters, in their order."""
    result = {f"second_moment/{name}": slot for name, slot in zip(parameters, optimizer.second, strict=True)}
    if settings.optimizer == "adam" or settings.rmsprop_centered:
        result |= {f"first_moment/{name}": slot for name, slot in zip(parameters, optimizer.first, strict=True)}
    return result

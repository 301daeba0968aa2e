"""Small faults, each one text of the checkout replaced, that the ladder of `benchmarks.parity` must catch.

Who finds a new way to be wrong adds it here: a fault that slips through is a rung missing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("backends", "common", "benchmarks")


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A fault in one file; `backend` is the one that runs it, also where the file is shared."""

    name: str
    wrong: str
    backend: str
    file: str
    before: str
    after: str


def mutated(mutation: Mutation, folder: Path) -> None:
    """Copy the checkout's code into `folder`, which must be empty, with that one fault: a process that starts there has it.

    Raises `ValueError` where the text to replace isn't in the file exactly once.
    """
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    if text.count(mutation.before) != 1:
        raise ValueError(f"{mutation.name}: its text is in {mutation.file} {text.count(mutation.before)} times, not once")
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "records"))
    (folder / mutation.file).write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")


# What the older scripts do otherwise, in each backend: the two bugs of their flow, and a mean-field KL in closed form.
ANCESTOR = [
    Mutation(
        name="log-det-without-gate-bias-pytorch",
        wrong="The gate is σ(s + gate_bias), but the log-det is Σ log σ(s).",
        backend="pytorch",
        file="backends/pytorch/flow.py",
        before="        s = s + self.gate_bias\n        gate = torch.sigmoid(s)\n",
        after="        gate = torch.sigmoid(s + self.gate_bias)\n",
    ),
    Mutation(
        name="log-det-without-gate-bias-jax",
        wrong="The gate is σ(s + gate_bias), but the log-det is Σ log σ(s).",
        backend="jax",
        file="backends/jax/flow.py",
        before="        s = s + self.gate_bias\n        gate = nnx.sigmoid(s)\n",
        after="        gate = nnx.sigmoid(s + self.gate_bias)\n",
    ),
    Mutation(
        name="log-det-without-gate-bias-tensorflow",
        wrong="The gate is σ(s + gate_bias), but the log-det is Σ log σ(s).",
        backend="tensorflow",
        file="backends/tensorflow/flow.py",
        before="        s = s + self.gate_bias\n        gate = tf.sigmoid(s)\n",
        after="        gate = tf.sigmoid(s + self.gate_bias)\n",
    ),
    Mutation(
        name="reversal-on-sample-axis-pytorch",
        wrong="Between two blocks the samples are reversed, and the latents' order never changes.",
        backend="pytorch",
        file="backends/pytorch/flow.py",
        before="z = z.flip(-1)",
        after="z = z.flip(0)",
    ),
    Mutation(
        name="reversal-on-sample-axis-jax",
        wrong="Between two blocks the samples are reversed, and the latents' order never changes.",
        backend="jax",
        file="backends/jax/flow.py",
        before="z = jnp.flip(z, -1)",
        after="z = jnp.flip(z, 0)",
    ),
    Mutation(
        name="reversal-on-sample-axis-tensorflow",
        wrong="Between two blocks the samples are reversed, and the latents' order never changes.",
        backend="tensorflow",
        file="backends/tensorflow/flow.py",
        before="z = tf.reverse(z, [-1])",
        after="z = tf.reverse(z, [0])",
    ),
    Mutation(
        name="analytic-kl-pytorch",
        wrong="log q(z|x) − log p(z) is its expectation in closed form, for a mean-field q.",
        backend="pytorch",
        file="backends/pytorch/vae.py",
        before='"log_q": log_q,',
        after='"log_q": standard_normal_log_density(z) + (0.5 * (scale**2 + loc**2 - 1) - scale.log()).sum(-1),',
    ),
    Mutation(
        name="analytic-kl-jax",
        wrong="log q(z|x) − log p(z) is its expectation in closed form, for a mean-field q.",
        backend="jax",
        file="backends/jax/vae.py",
        before='"log_q": log_q,',
        after='"log_q": standard_normal_log_density(z) + (0.5 * (scale**2 + loc**2 - 1) - jnp.log(scale)).sum(-1),',
    ),
    Mutation(
        name="analytic-kl-tensorflow",
        wrong="log q(z|x) − log p(z) is its expectation in closed form, for a mean-field q.",
        backend="tensorflow",
        file="backends/tensorflow/vae.py",
        before='"log_q": log_q,',
        after='"log_q": standard_normal_log_density(z)\n'
        "            + tf.reduce_sum(0.5 * (scale**2 + loc**2 - 1) - tf.math.log(scale), -1),",
    ),
]

PYTORCH = [
    Mutation(
        name="weight-transposed-on-loading",
        wrong="Weights of the second layers are kept [in, out] where nn.Linear has [out, in].",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before='array = value.T if name.endswith("weight") else value',
        after='array = value.T if name.endswith("weight") and "second" not in name else value',
    ),
    Mutation(
        name="weight-transposed-in-the-product",
        wrong="The second hidden layer multiplies by its transposed weight.",
        backend="pytorch",
        file="backends/pytorch/networks.py",
        before="F.relu(self.second(x))",
        after="F.relu(F.linear(x, self.second.weight.T, self.second.bias))",
    ),
    Mutation(
        name="exp-for-softplus",
        wrong="The scale of q's base is exp(s), not softplus(s).",
        backend="pytorch",
        file="backends/pytorch/vae.py",
        before='"scale": softplus(s)',
        after='"scale": s.exp()',
    ),
    Mutation(
        name="softplus-threshold-20",
        wrong="PyTorch's default softplus, which is x itself above 20.",
        backend="pytorch",
        file="backends/pytorch/vae.py",
        before="threshold=40",
        after="threshold=20",
    ),
    Mutation(
        name="context-dropped",
        wrong="The context doesn't enter the flow.",
        backend="pytorch",
        file="backends/pytorch/flow.py",
        before="F.relu(self.first(z) + self.context(context))",
        after="F.relu(self.first(z) + 0 * self.context(context))",
    ),
    Mutation(
        name="mean-for-sum-over-pixels",
        wrong="log p(x|z) is the pixels' mean.",
        backend="pytorch",
        file="backends/pytorch/vae.py",
        before="(x * logits - softplus(logits)).sum(-1)",
        after="(x * logits - softplus(logits)).mean(-1)",
    ),
    Mutation(
        name="gradient-stopped-at-the-decoder",
        wrong="log p(x|z) is right, but has no gradient through z.",
        backend="pytorch",
        file="backends/pytorch/vae.py",
        before="logits = self.decoder(z)",
        after="logits = self.decoder(z.detach())",
    ),
    Mutation(
        name="gradients-added-up",
        wrong="A step's gradient is added to those of the steps before it.",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before="            self.optimizer.zero_grad()\n",
        after="",
    ),
    Mutation(
        name="epsilon-into-the-root",
        wrong="RMSprop's g/(√v + ε) is g/√(v + ε).",
        backend="pytorch",
        file="backends/pytorch/optimizers.py",
        before="                root = torch._foreach_sqrt(v)\n                torch._foreach_add_(root, epsilon)\n",
        after="                root = torch._foreach_add(v, epsilon)\n                torch._foreach_sqrt_(root)\n",
    ),
    Mutation(
        name="weight-decay-without-learning-rate",
        wrong="RMSprop's weight decay is not multiplied by the learning rate.",
        backend="pytorch",
        file="backends/pytorch/optimizers.py",
        before="1 - lr * self.settings.weight_decay",
        after="1 - self.settings.weight_decay",
    ),
    Mutation(
        name="ema-from-zero",
        wrong="The moving average starts at 0, not at the initial parameters.",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before="self.ema[name].data.copy_(self._own(name, value))",
        after="self.ema[name].data.zero_()",
    ),
    Mutation(
        name="elbo-of-training-tempered",
        wrong="The ELBO that training returns has the warm-up's β.",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before="log_weights(quantities, 1.0).mean()",
        after="log_weights(quantities, float(kl_weights[t])).mean()",
    ),
    Mutation(
        name="beta-in-evaluation",
        wrong="Evaluation has the β of the warm-up's first step.",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before="log_weights(self.judged(self._images(handle, indices), epsilon), 1.0)",
        after="log_weights(self.judged(self._images(handle, indices), epsilon), 1 / max(self.training.warm_up, 1))",
    ),
    Mutation(
        name="device-noise-reused-between-steps",
        wrong="All steps of a chunk have the noise of its first.",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before='"training noise", first_step + t',
        after='"training noise", first_step',
    ),
    Mutation(
        name="device-noise-reused-between-blocks",
        wrong="Every block of an image's evaluation samples has the same noise.",
        backend="pytorch",
        file="backends/pytorch/session.py",
        before='"evaluation noise", int(i), block)',
        after='"evaluation noise", int(i))',
    ),
]

JAX = [
    Mutation(
        name="masked-layer-without-bias",
        wrong="The masked layers' biases are left out.",
        backend="jax",
        file="backends/jax/flow.py",
        before="(self.kernel * self.mask) + self.bias",
        after="(self.kernel * self.mask) + 0 * self.bias",
    ),
    Mutation(
        name="mask-transposed",
        wrong="MADE's second mask lets a hidden unit see the later ones.",
        backend="jax",
        file="backends/jax/flow.py",
        before='MaskedLinear(masks["second"]',
        after='MaskedLinear(masks["second"].T',
    ),
    Mutation(
        name="scale-for-variance",
        wrong="The base is N(loc, scale), not N(loc, scale²).",
        backend="jax",
        file="backends/jax/vae.py",
        before="z = loc + scale * noise",
        after="z = loc + jnp.sqrt(scale) * noise",
    ),
    Mutation(
        name="entropy-sign",
        wrong="log q of the base adds Σ log scale.",
        backend="jax",
        file="backends/jax/vae.py",
        before="standard_normal_log_density(noise) - jnp.log(scale).sum(-1)",
        after="standard_normal_log_density(noise) + jnp.log(scale).sum(-1)",
    ),
    Mutation(
        name="prior-at-the-base",
        wrong="log p(z) is that of the flow's input.",
        backend="jax",
        file="backends/jax/vae.py",
        before='"log_p_z": standard_normal_log_density(z)',
        after='"log_p_z": standard_normal_log_density(quantities["base_z"])',
    ),
    Mutation(
        name="kl-weight-on-the-prior-alone",
        wrong="β multiplies log p(z), and not log q(z|x).",
        backend="jax",
        file="backends/jax/vae.py",
        before='kl_weight * (quantities["log_p_z"] - quantities["log_q"])',
        after='kl_weight * quantities["log_p_z"] - quantities["log_q"]',
    ),
    Mutation(
        name="log-k-left-out",
        wrong="The objective log-sum-exps over samples.",
        backend="jax",
        file="backends/jax/vae.py",
        before="(jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))).mean()",
        after="jax.nn.logsumexp(log_w, axis=0).mean()",
    ),
    Mutation(
        name="sum-for-mean-over-the-batch",
        wrong="The objective is the batch's sum.",
        backend="jax",
        file="backends/jax/vae.py",
        before="(jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))).mean()",
        after="(jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))).sum()",
    ),
    Mutation(
        name="path-gradient-stopped",
        wrong="log q is right, but has no gradient through the scale.",
        backend="jax",
        file="backends/jax/vae.py",
        before="jnp.log(scale).sum(-1)",
        after="jnp.log(jax.lax.stop_gradient(scale)).sum(-1)",
    ),
    Mutation(
        name="adam-epsilon-into-the-root",
        wrong="Adam's m̂/(√v̂ + ε) is m̂/√(v̂ + ε).",
        backend="jax",
        file="backends/jax/optimizers.py",
        before="eps=settings.adam_epsilon",
        after="eps=0.0, eps_root=settings.adam_epsilon",
    ),
    Mutation(
        name="weight-decay-dropped",
        wrong="There is no weight decay.",
        backend="jax",
        file="backends/jax/optimizers.py",
        before="optax.add_decayed_weights(settings.weight_decay)",
        after="optax.add_decayed_weights(0.0)",
    ),
    Mutation(
        name="adam-forgets-its-steps",
        wrong="A loaded state's bias correction starts anew.",
        backend="jax",
        file="backends/jax/optimizers.py",
        before="jnp.asarray(step, jnp.int32)",
        after="jnp.asarray(0, jnp.int32)",
    ),
    Mutation(
        name="ema-a-step-behind",
        wrong="The moving average takes the parameters before the step.",
        backend="jax",
        file="backends/jax/session.py",
        before="optax.incremental_update(parameters, ema, ",
        after="optax.incremental_update(carry[0], ema, ",
    ),
    Mutation(
        name="ema-not-judged",
        wrong="Evaluation uses the parameters where it should use their moving average.",
        backend="jax",
        file="backends/jax/session.py",
        before="self._log_weights(self.ema or self.parameters, ",
        after="self._log_weights(self.parameters, ",
    ),
    Mutation(
        name="device-noise-reused-between-chunks",
        wrong="Every chunk of training has the same noise.",
        backend="jax",
        file="backends/jax/session.py",
        before="np.arange(first_step, first_step + steps, dtype=np.int32)",
        after="np.arange(steps, dtype=np.int32)",
    ),
    Mutation(
        name="picture-of-logits",
        wrong="Decoding for pictures returns logits.",
        backend="jax",
        file="backends/jax/session.py",
        before="np.asarray(jax.nn.sigmoid(logits))",
        after="np.asarray(logits)",
    ),
]

TENSORFLOW = [
    Mutation(
        name="loc-and-scale-swapped",
        wrong="The encoder's first outputs are the scale's, the second loc.",
        backend="tensorflow",
        file="backends/tensorflow/vae.py",
        before="loc, s, *context = ",
        after="s, loc, *context = ",
    ),
    Mutation(
        name="relu-left-out",
        wrong="MADE's second layer is linear.",
        backend="tensorflow",
        file="backends/tensorflow/flow.py",
        before="hidden = tf.nn.relu(self.second(hidden))",
        after="hidden = self.second(hidden)",
    ),
    Mutation(
        name="gate-inverted",
        wrong="The gate keeps m and lets z go.",
        backend="tensorflow",
        file="backends/tensorflow/flow.py",
        before="gate * z + (1 - gate) * m",
        after="(1 - gate) * z + gate * m",
    ),
    Mutation(
        name="reversal-before-the-first-block",
        wrong="The latents are reversed before each block, not only between two.",
        backend="tensorflow",
        file="backends/tensorflow/flow.py",
        before="if i > 0:",
        after="if i >= 0:",
    ),
    Mutation(
        name="last-log-det-alone",
        wrong="The flow's log-det is that of its last block.",
        backend="tensorflow",
        file="backends/tensorflow/flow.py",
        before="log_det = log_det + block_log_det",
        after="log_det = block_log_det",
    ),
    Mutation(
        name="log-det-sign",
        wrong="log q adds the log-det.",
        backend="tensorflow",
        file="backends/tensorflow/vae.py",
        before='log_q - quantities["log_det"]',
        after='log_q + quantities["log_det"]',
    ),
    Mutation(
        name="normal-constant-in-the-log",
        wrong="The normal density's constant is log π.",
        backend="tensorflow",
        file="backends/tensorflow/vae.py",
        before="math.log(2 * math.pi)",
        after="math.log(math.pi)",
    ),
    Mutation(
        name="mean-over-samples-of-logs",
        wrong="The objective averages log w over samples, which is the ELBO for every k.",
        backend="tensorflow",
        file="backends/tensorflow/vae.py",
        before="tf.reduce_mean(tf.reduce_logsumexp(log_w, axis=0) - math.log(len(log_w)))",
        after="tf.reduce_mean(log_w)",
    ),
    Mutation(
        name="epsilon-hat",
        wrong="Adam's ε is added before the second moment's bias is corrected, as in Keras's own.",
        backend="tensorflow",
        file="backends/tensorflow/optimizers.py",
        before="return m / (tf.sqrt(v) + self.settings.adam_epsilon)",
        after="return m / (tf.sqrt(v) + self.settings.adam_epsilon * tf.sqrt(v / second))",
    ),
    Mutation(
        name="beta-through-float32",
        wrong="Adam's β1 is rounded to float32 in float64, as in Keras's own.",
        backend="tensorflow",
        file="backends/tensorflow/optimizers.py",
        before="tf.constant(beta1, gradient.dtype)",
        after="tf.cast(tf.constant(beta1, tf.float32), gradient.dtype)",
    ),
    Mutation(
        name="mean-not-subtracted",
        wrong="Centered RMSprop divides by √v, not √(v − m²).",
        backend="tensorflow",
        file="backends/tensorflow/optimizers.py",
        before="v = v - tf.square(first)",
        after="v = v - 0 * tf.square(first)",
    ),
    Mutation(
        name="learning-rate-a-step-late",
        wrong="A step has the learning rate of the step before it.",
        backend="tensorflow",
        file="backends/tensorflow/session.py",
        before="            self.optimizer.rate.assign(learning_rates[t])\n"
        "            self.optimizer.apply(gradients, parameters)\n",
        after="            self.optimizer.apply(gradients, parameters)\n"
        "            self.optimizer.rate.assign(learning_rates[t])\n",
    ),
    Mutation(
        name="given-noise-reused-between-steps",
        wrong="All steps of a chunk take the first of the noises given.",
        backend="tensorflow",
        file="backends/tensorflow/session.py",
        before="epsilon = noise[t]",
        after="epsilon = noise[0]",
    ),
    Mutation(
        name="moments-not-loaded",
        wrong="The optimizer's moments start at 0 whatever the state says.",
        backend="tensorflow",
        file="backends/tensorflow/session.py",
        before='(self.ema, "ema"), (self.moments, "optimizer"))',
        after='(self.ema, "ema"))',
    ),
    Mutation(
        name="device-noise-reused-between-images",
        wrong="Every image is evaluated with the same noise.",
        backend="tensorflow",
        file="backends/tensorflow/session.py",
        before="image_seed = tf.random.experimental.stateless_fold_in(seed, image)",
        after="image_seed = tf.random.experimental.stateless_fold_in(seed, 0)",
    ),
]

# In common/, as if one backend had a copy of it that drifted.
SHARED = [
    Mutation(
        name="mask-off-by-one",
        wrong="A latent's (m, s) may depend on itself.",
        backend="pytorch",
        file="common/masks.py",
        before="hidden[:, None] < out[None, :]",
        after="hidden[:, None] <= out[None, :]",
    ),
    Mutation(
        name="degrees-from-one",
        wrong="No hidden unit has degree 0, so that the first latent never sees the image, as in the older scripts.",
        backend="pytorch",
        file="common/masks.py",
        before="return np.arange(hidden_size) * latent_size // hidden_size",
        after="return np.maximum(np.arange(hidden_size) * latent_size // hidden_size, 1)",
    ),
    Mutation(
        name="fan-in-counts-masked-inputs",
        wrong="A masked layer's initial weights are scaled by all its inputs.",
        backend="pytorch",
        file="common/parameters.py",
        before="fan_in = np.maximum(mask.sum(axis=0, keepdims=True), 1)",
        after="fan_in = layer.inputs",
    ),
    Mutation(
        name="accumulator-ignored",
        wrong="RMSprop's second moment starts at 0 whatever the setting.",
        backend="pytorch",
        file="common/parameters.py",
        before="np.full(value.shape, accumulator, dtype)",
        after="np.zeros(value.shape, dtype)",
    ),
    Mutation(
        name="cosine-off-by-one",
        wrong="The learning rate is that of the step after.",
        backend="pytorch",
        file="common/schedules.py",
        before="np.cos(np.pi * t / total_steps)",
        after="np.cos(np.pi * (t + 1) / total_steps)",
    ),
    Mutation(
        name="warm-up-off-by-one",
        wrong="β is 0 in the first step.",
        backend="pytorch",
        file="common/schedules.py",
        before="(t + 1) / max(training.warm_up, 1)",
        after="t / max(training.warm_up, 1)",
    ),
    Mutation(
        name="shared-noise-reused-between-steps",
        wrong="All steps of a chunk have the noise of its first.",
        backend="pytorch",
        file="common/noise.py",
        before='"training noise", first_step + t)',
        after='"training noise", first_step)',
    ),
    Mutation(
        name="end-of-the-epoch-dropped",
        wrong="The images that fill no whole minibatch of an epoch are not trained on.",
        backend="pytorch",
        file="common/data.py",
        before="(first_step + steps) * batch_size), images)",
        after="(first_step + steps) * batch_size), images - images % batch_size)",
    ),
    Mutation(
        name="last-image-dropped",
        wrong="The last image of a batch isn't evaluated.",
        backend="pytorch",
        file="common/estimators.py",
        before=".astype(np.float64)[:, : len(batch)]",
        after=".astype(np.float64)[:, : len(batch) - 1]",
    ),
    Mutation(
        name="last-batch-dropped",
        wrong="Images that fill no whole batch aren't evaluated.",
        backend="pytorch",
        file="common/estimators.py",
        before="for first in range(0, len(images), image_batch):",
        after="for first in range(0, len(images) - image_batch + 1, image_batch):",
    ),
    Mutation(
        name="more-samples-than-asked",
        wrong="The last block of samples is used whole, so that K is another than asked.",
        backend="pytorch",
        file="common/estimators.py",
        before="min(k + sample_block, samples)",
        after="k + sample_block",
    ),
    Mutation(
        name="log-sum-exp-for-log-mean-exp",
        wrong="log p(x) lacks −log K.",
        backend="pytorch",
        file="common/estimators.py",
        before="np.log(np.exp(log_w - top).mean(axis=0))",
        after="np.log(np.exp(log_w - top).sum(axis=0))",
    ),
]

MUTATIONS = [*ANCESTOR, *PYTORCH, *JAX, *TENSORFLOW, *SHARED]

"""The vocabulary of checks: what the author of a check can use, one file a subject.

- `subject`: the policy under check; it builds, copies and runs one step or one sequence.
- `weights`: copies with perturbed weights, the parameters that should learn, gradients.
- `rollouts`: many steps, sequences, and observations and states cut to size.
- `outputs`: from logits and values to numbers; log-probabilities, samples.
- `tolerances`: every tolerance with its reason, and comparisons.
- `snippets`: the lines of an example that a reader pastes.
- `construction`: other builds of the class, effects of a build, hidden parameters.

Three more serve a single family: `density` integrates log-probabilities (A6), `fresh_process`
reloads a policy in a new Python (P2), and `bandits` trains (T, and the loss of N6 and P6).
"""

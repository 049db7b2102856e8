"""How many bits of fact a model holds, bounded from below by its losses: formulas, without models.

Source: Allen-Zhu and Li, "Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws",
arXiv:2404.05405: the sizes of data (section 2), the lower bound (section 3) and the capacity ratio (section 4).
Losses are in nats and *summed* over the tokens of a name or value, then averaged over persons:

    p1 = E[-ln Pr(name at the start of a document)]
    p2 = E[-ln Pr(value | name, attribute)]      bioS: summed over the attributes of a person; bioD: a mean over them
    p3 = E[-ln Pr(first chunk of a value | name, attribute)]                                           (bioD alone)

Sizes such as T^L and binomial coefficients are kept as logarithms, so that nothing overflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keeps.errors import RecordError, SettingsError

LN2 = math.log(2)
BIOS_VALUES = (2, 12 * 28 * 200, 200, 300, 100, 263)  # pronoun, birth date, city, university, major, employer
LOG2_S0 = math.fsum(math.log2(size) for size in BIOS_VALUES)  # 47.59 bits a person
BITS_A_PARAMETER = {1000: 2.0, 100: 1.0}  # exposures of a fact -> bits a parameter that were reached (results 1 and 3)
_DIRECT = 2.0**26  # ln Gamma loses digits by cancellation far above this


@dataclass(frozen=True)
class Losses:
    """p1, p2 and p3 of the module's text, in nats.

    Raises:
        RecordError: one is negative or no number: a sum of -ln Pr cannot be.
    """

    p1: float
    p2: float
    p3: float = 0.0

    def __post_init__(self) -> None:
        for name in ("p1", "p2", "p3"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                mend = "give summed negative log-likelihoods in nats"
                raise RecordError(f"the loss {name} is {value:g}", where="Losses", mend=mend)


@dataclass(frozen=True)
class Bits:
    """The three terms of a bound, in bits; a term is negative where the loss is above that of a uniform guess."""

    name: float
    value: float
    diversity: float = 0.0

    @property
    def total(self) -> float:
        """Their sum."""
        return self.name + self.value + self.diversity

    @property
    def clamped(self) -> Bits:
        """Each term at least 0: what is worse than a guess holds nothing, and takes nothing from the others."""
        return Bits(max(0.0, self.name), max(0.0, self.value), max(0.0, self.diversity))


@dataclass(frozen=True)
class BioSSize:
    """The size of bioS(N).

    Attributes:
        persons: N.
        names: N_0, the full names that N are drawn from without replacement.
        log2_values: log2 S_0, the bits of all attributes of one person.

    Raises:
        SettingsError: N is below 1 or above N_0, or a person has no information.
    """

    persons: int
    names: int = 400 * 400 * 1000
    log2_values: float = LOG2_S0

    def __post_init__(self) -> None:
        _check_names(self.persons, self.names)
        if not (math.isfinite(self.log2_values) and self.log2_values > 0):
            mend = "give attributes of which at least one has two values"
            raise SettingsError(f"log2 S_0 is {self.log2_values:g}", where="BioSSize", mend=mend)

    def stored(self, losses: Losses) -> Bits:
        """N log2(N_0 / e^p1) + N log2(S_0 / e^p2), the numerator of the capacity ratio."""
        name = self.persons * (math.log2(self.names) - losses.p1 / LN2)
        return Bits(name, self.persons * (self.log2_values - losses.p2 / LN2))

    def bound(self, losses: Losses) -> Bits:
        """The theorem's bound: as :meth:`stored`, with N_0 - N in place of N_0."""
        name = self.persons * (_log2(self.names - self.persons) - losses.p1 / LN2)
        return replace(self.stored(losses), name=name)

    @property
    def perfect(self) -> Losses:
        """Of a model that knows everything: p1 = ln N, p2 = 0."""
        return Losses(math.log(self.persons), 0.0)

    @property
    def most(self) -> float:
        """Bits that a perfect model is credited with: N log2(N_0 / N) + N log2 S_0, the P R_max of the paper."""
        return self.stored(self.perfect).total

    @property
    def data(self) -> float:
        """Bits in the data: log2 binom(N_0, N) + N log2 S_0, which no model can exceed."""
        return log2_choose(math.log2(self.names), self.persons) + self.persons * self.log2_values


@dataclass(frozen=True)
class BioDSize:
    """The size of bioD(N, K, C, D, L, T).

    Attributes:
        persons, attributes: N and K.
        chunks: C, of a value.
        diversity: D, the distinct chunks of an attribute, drawn without replacement.
        length, alphabet: L and T: a chunk is one of T^L strings.
        names: N_0.

    Raises:
        SettingsError: N > N_0, D < 2, D > T^L, or a size below 1.
    """

    persons: int
    attributes: int
    chunks: int
    diversity: int
    length: int
    alphabet: int
    names: int = 400 * 400 * 1000

    def __post_init__(self) -> None:
        _check_names(self.persons, self.names)
        small = [name for name in ("attributes", "chunks", "length", "alphabet") if getattr(self, name) < 1]
        if small:
            raise SettingsError(f"{small[0]} is below 1", where="BioDSize", mend="choose 1 or more")
        if self.diversity < 2:
            mend = "choose 2 or more: one possible chunk is no information"
            raise SettingsError(f"the diversity D is {self.diversity}", where="BioDSize", mend=mend)
        if not fits(self.diversity, self.alphabet, self.length):
            what = f"D = {self.diversity} distinct chunks are more than T^L = {self.alphabet}^{self.length}"
            raise SettingsError(what, where="BioDSize", mend="lengthen the chunks, or choose a smaller D")

    @property
    def log2_strings(self) -> float:
        """log2 T^L."""
        return self.length * math.log2(self.alphabet)

    def stored(self, losses: Losses) -> Bits:
        """N log2(N_0 / e^p1) + N K log2(D^C / e^p2) + K D log2(T^L / (D e^p3))."""
        name = self.persons * (math.log2(self.names) - losses.p1 / LN2)
        values = self.persons * self.attributes * (self.chunks * math.log2(self.diversity) - losses.p2 / LN2)
        return Bits(name, values, self._diversity(self.log2_strings, losses.p3))

    def bound(self, losses: Losses) -> Bits:
        """The theorem without its o(1) and o(KD): N_0 - N in place of N_0, and T^L - D in place of T^L."""
        name = self.persons * (_log2(self.names - self.persons) - losses.p1 / LN2)
        left = self.log2_strings + _log2(-math.expm1((math.log2(self.diversity) - self.log2_strings) * LN2))
        return Bits(name, self.stored(losses).value, self._diversity(left, losses.p3))

    @property
    def perfect(self) -> Losses:
        """Of a model that knows everything: p1 = ln N, p2 = p3 = 0."""
        return Losses(math.log(self.persons), 0.0, 0.0)

    @property
    def most(self) -> float:
        """Bits of a perfect model: N log2(N_0 / N) + N K C log2 D + K D log2(T^L / D), the P R_max of the paper."""
        return self.stored(self.perfect).total

    @property
    def data(self) -> float:
        """Bits in the data: log2 binom(N_0, N) + N K C log2 D + K log2 binom(T^L, D)."""
        values = self.persons * self.attributes * self.chunks * math.log2(self.diversity)
        strings = self.attributes * log2_choose(self.log2_strings, self.diversity)
        return log2_choose(math.log2(self.names), self.persons) + values + strings

    def _diversity(self, log2_strings: float, p3: float) -> float:
        return self.attributes * self.diversity * (log2_strings - math.log2(self.diversity) - p3 / LN2)


def log2_choose(log2_n: float, k: int) -> float:
    """log2 of the binomial coefficient (n, k), for n as large as one likes, given as its logarithm.

    By ln Gamma for small n; above, ln n! by Stirling, in which what is large cancels before it is formed (relative
    error below 1e-9 while k is below n / 2).

    >>> round(log2_choose(math.log2(10), 3), 9) == round(math.log2(120), 9)
    True
    >>> round(log2_choose(50 * math.log2(40000), 2))  # T^L of bioD, about 1e230
    1528

    Raises:
        ValueError: k is negative or above n.
    """
    if k < 0 or (k > 0 and math.log2(k) > log2_n + 1e-9):
        raise ValueError(f"no {k} of 2^{log2_n:g} can be chosen")
    if k == 0:
        return 0.0
    if log2_n <= math.log2(_DIRECT):
        n = max(2.0**log2_n, float(k))
        return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / LN2
    share = 2.0 ** (math.log2(k) - log2_n)  # k / n
    if share >= 1:
        return 0.0
    log_left = math.log1p(-share)  # ln(1 - k / n)
    ratio = log_left / share if share > 1e-8 else -1 - share / 2
    # ln n! - ln (n-k)! = k ln n - k - (n - k + 1/2) ln(1 - k/n), up to 1 / (12 n)
    falling = k * log2_n * LN2 - k * (1 + ratio - log_left) - log_left / 2
    return (falling - math.lgamma(k + 1)) / LN2


def fits(diversity: int, alphabet: int, length: int) -> bool:
    """Whether ``diversity`` distinct strings of ``length`` letters exist, D <= T^L; exact, and never overflows.

    >>> fits(9, 3, 2), fits(10, 3, 2)
    (True, False)
    """
    enough = min(length, max(1, diversity).bit_length())  # 2^bit_length is above D already
    return alphabet**enough >= diversity


def capacity_ratio(bits: float, parameters: int) -> float:
    """R: bits a parameter. ``parameters`` counts all trainable ones, every expert, tied matrices once.

    Raises:
        SettingsError: there is no parameter.
    """
    if parameters < 1:
        raise SettingsError(f"a model of {parameters} parameters", where="capacity_ratio", mend="count the weights")
    return bits / parameters


def answer_bits(logprob: float, guess_bits: float) -> float:
    """What the model saves on one answer against a guess that knows nothing: guess - (-log2 p), in bits.

    It is the value term of the theorem for one fact: log2(|A| / e^p2), where |A| answers are equally likely.

    Raises:
        RecordError: the log-probability is above 0 or no number.
    """
    if not logprob <= 0:
        mend = "give the natural logarithm of a probability"
        raise RecordError(f"a log-probability of {logprob:g}", where="answer_bits", mend=mend)
    return guess_bits + logprob / LN2


def facts_that_fit(parameters: int, bits_a_fact: float, exposures: int = 1000) -> float:
    """Facts of ``bits_a_fact`` bits that an empty model of this size holds after this many exposures of each.

    Raises:
        SettingsError: no ratio is published for these exposures, or a fact has no information.
    """
    if exposures not in BITS_A_PARAMETER:
        mend = f"choose one of {', '.join(map(str, BITS_A_PARAMETER))}"
        raise SettingsError(f"no ratio is known for {exposures} exposures", where="facts_that_fit", mend=mend)
    if not bits_a_fact > 0:
        mend = "give facts with two possible answers or more"
        raise SettingsError(f"a fact of {bits_a_fact:g} bits", where="facts_that_fit", mend=mend)
    return BITS_A_PARAMETER[exposures] * parameters / bits_a_fact


def log2_values(sizes: Sequence[int]) -> float:
    """log2 of the product of the sizes of attributes.

    >>> round(log2_values(BIOS_VALUES), 2)
    47.59
    """
    return math.fsum(math.log2(size) for size in sizes)


def _check_names(persons: int, names: int) -> None:
    if persons < 1 or persons > names:
        what = f"N = {persons} persons cannot have different names out of N_0 = {names}"
        raise SettingsError(what, where="names", mend="choose N between 1 and N_0, or lengthen the lists of names")


def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else -math.inf

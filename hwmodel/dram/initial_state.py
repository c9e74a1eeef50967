"""From a description to the numbers on which the controller's kernel works: its arrays, with all channels at rest.

Between the description of a memory (timing, organisation, address map, policy, rule table) and `controller`, which owns
the arrays from then on. Nothing here knows about time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.intake import place_of
from hwmodel.dram.policy import REFRESH_POLICIES, SCHEDULERS, Policy
from hwmodel.dram.room import MAX_BANKS, MAX_PCS, check_room
from hwmodel.dram.standards import COMMANDS, LEVELS, Organisation, Rule, Timing
from hwmodel.dram.state import DramState

Array = np.ndarray[Any, Any]
LINE = 8  # numbers in a line of the cache
# Which commands the rules of a level may hold back after which; those of a pseudo-channel hold back all
_KNOWN: dict[str, Mapping[str, Sequence[str]]] = {
    "stack_id": dict.fromkeys(("RD", "WR"), ("RD", "WR")),
    "bank_group": {"ACT": ("ACT", "REFpb")} | dict.fromkeys(("RD", "WR"), ("RD", "WR")),
    "bank": {"ACT": ("ACT", "PRE", "RD", "WR", "REFpb")}
    | dict.fromkeys(("RD", "WR"), ("PRE",))
    | dict.fromkeys(("PRE", "REFpb"), ("ACT", "PRE", "REFpb")),
}
_FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")


def initial_state(
    timing: Timing,
    organisation: Organisation,
    stacks: int,
    address_map_tables: tuple[Array, Array],
    policy: Policy,
    table: tuple[Rule, ...],
) -> DramState:
    """Return the channels of all stacks at rest, without room for bursts; arguments as of `controller.Dram`.

    Raises ValueError for an organisation that there is no room for, for address map tables that leave it, and for
    rules of a kind that the kernel does not know.
    """
    check_room(organisation, stacks, policy)
    sizes = {"stack": stacks} | organisation.field_sizes()
    address_map, digits, capacity = _address_map(address_map_tables, sizes)
    scalars = _scalars(timing, organisation, stacks, policy)
    delay, scalars[k.FAW_TICKS] = _delays(table)
    scalars[k.DELAY : k.PLACES] = delay.ravel()
    scalars[k.DIGITS], scalars[k.HASHES] = digits, len(address_map) - digits
    scalars[k.CAPACITY] = capacity
    has_queues = policy.scheduler == "per-bank-queues"
    if not has_queues:  # there, bursts may be merged one by one
        scalars[k.BLOCK_SHIFT] = _block_shift(address_map[:digits], address_map[digits:])
    channels, words = stacks * organisation.channels, policy.mask_words
    state = DramState(
        scalars=scalars,
        address_map=address_map,
        linear=np.zeros((2 * k.TURNS, 256), np.int64),
        pool=np.zeros((0, k.POOL_FIELDS), np.int64),
        requests=np.zeros((0, k.REQUEST_FIELDS), np.int64),
        completed=np.zeros((0, 2), np.int64),
        channels=_channels(channels, words, organisation, scalars),
        queues=np.zeros((channels if has_queues else 0, k.QUEUE_WORDS), np.int64),
        bins=np.zeros(0, np.int64),
        trace=np.zeros((0, k.TRACE_FIELDS), np.int64),
        log=np.zeros((0, k.LOG_FIELDS), np.int64),
        words=(0,) * words,
    )
    _tabulate(state)
    return state


def _tabulate(state: DramState) -> None:
    """Tabulate the address map by address bytes, where it is linear over bits; but for one digit, where it is so."""
    scalars = state.scalars
    digits, hashes = state.address_map[: scalars[k.DIGITS]], state.address_map[scalars[k.DIGITS] :]
    divisors = [int(divisor) for divisor in np.cumprod(digits[:, k.DIGIT_STEP])]
    turned = set(hashes[hashes[:, k.TURN_SIZE] != 0, k.HASH_TARGET].tolist())
    folds = [  # how far the topmost digit reaches does not matter
        at
        for at, digit in enumerate(digits)
        if digit[k.DIGIT_FIELD] in turned or (digit[k.DIGIT_MASK] < 0 and at + 1 < len(digits))
    ]
    if any(_log2(int(multiplier)) < 0 for multiplier in digits[:, k.DIGIT_MULTIPLIER]) or len(folds) > 1:
        return
    low, modulus, unit = _fold(state, divisors, folds[0]) if folds else (62, 1, 1)
    if unit == 0 or (not folds and any(_log2(divisor) < 0 for divisor in divisors)):
        return
    values, bit = np.arange(256), 0
    while (address := 1 << bit if bit < low else modulus << bit) < scalars[k.CAPACITY]:  # the digit is taken out
        place = place_of(state, address)
        turn = (place >> k.CHANNEL_SHIFT) // unit if folds else 0
        is_set = (values >> (bit % 8)) & 1
        state.linear[bit // 8] ^= is_set * (place - (turn * unit << k.CHANNEL_SHIFT))
        state.linear[k.TURNS + bit // 8] += is_set * turn
        bit += 1
    if folds:
        scalars[[k.FOLD, k.FOLD_SHIFT, k.FOLD_UNIT]] = modulus, low, unit
    else:
        scalars[k.LINEAR] = 1


def _fold(state: DramState, divisors: list[int], fold: int) -> tuple[int, int, int]:
    """Return (bits below, modulus, channels in a step) of a digit between address bits; no channels if it is none.

    Of an even number, the factors of two are bits below the digit.
    """
    scalars = state.scalars
    digits, hashes = state.address_map[: scalars[k.DIGITS]], state.address_map[scalars[k.DIGITS] :]
    field, size, divisor = int(digits[fold, k.DIGIT_FIELD]), int(digits[fold, k.DIGIT_MODULUS]), divisors[fold]
    step = size & -size if _log2(size) < 0 else 1
    others, targets = np.delete(digits, fold, axis=0), hashes[hashes[:, k.HASH_TARGET] == field]
    turns, exchanged = targets[targets[:, k.TURN_SIZE] != 0], targets[targets[:, k.TURN_SIZE] == 0]
    below, above = np.array(divisors[:fold]) * digits[:fold, k.DIGIT_MODULUS], divisors[fold + 1 :]
    unit = int(scalars[k.CHANNEL_FIELD]) if field == _FIELDS.index("stack") else 1
    is_digit = (
        digits[fold, k.DIGIT_MULTIPLIER] == 1
        and (others[:, k.DIGIT_FIELD] != field).all()
        and (hashes[:, k.HASH_SOURCE] != field).all()
        and (turns[:, k.TURN_SIZE] == size).all()
        and (turns[:, k.TURN_WEIGHT] % step == 0).all()
        and (1 << exchanged[:, k.HASH_TARGET_BIT] < step).all()
        and (below <= divisor).all()
        and all(value % (divisor * size) == 0 for value in above)
        and all(_log2(value) >= 0 for value in (divisor, *divisors[:fold]))
        and all(_log2(value // (divisor * size)) >= 0 for value in above)
    )
    names_channels = field == _FIELDS.index("stack") or (
        field == _FIELDS.index("channel") and scalars[k.CHANNELS] == scalars[k.CHANNEL_FIELD]
    )
    if not is_digit or not names_channels or (step > 1 and _log2(unit) < 0):
        return 0, 0, 0
    return _log2(divisor * step), size // step, unit * step


def _delays(table: tuple[Rule, ...]) -> tuple[Array, int]:
    """Return delay[level, previous, following] and the length of the window of four activates."""
    delay = np.full((len(LEVELS) + 1, k.COMMAND_SLOTS, k.COMMAND_SLOTS), k.LONG_AGO, np.int64)
    faw_ticks = 0
    for rule in table:
        if rule.level == "channel" or not rule.previous:
            continue  # command buses and clock edges are constants of their own
        if rule.window == 4 and (rule.level, rule.previous, rule.following) == (
            "pseudo_channel",
            ("ACT",),
            ("ACT",),
        ):
            faw_ticks = rule.ticks
            continue
        if rule.window != 1 or (rule.sibling and rule.level != "stack_id"):
            raise ValueError(f"{rule}: only activates have a window (of four), only stack IDs have siblings")
        plane = k.AT_SIBLING if rule.sibling else LEVELS.index(rule.level)
        for previous in rule.previous:
            for following in rule.following:
                if rule.level in _KNOWN and following not in _KNOWN[rule.level].get(previous, ()):
                    raise ValueError(f"{rule}: after {previous} there is no rule for {following} at a {rule.level}")
                cell = plane, COMMANDS.index(previous), COMMANDS.index(following)
                delay[cell] = max(delay[cell], rule.ticks)
    for plane in (k.AT_STACK_ID, k.AT_BANK_GROUP, k.AT_SIBLING):  # what holds in the pseudo-channel need not hold twice
        delay[plane][delay[plane] <= delay[k.AT_PSEUDO_CHANNEL]] = k.LONG_AGO
    return delay, faw_ticks


def _scalars(timing: Timing, organisation: Organisation, stacks: int, policy: Policy) -> Array:
    o = organisation
    stack_banks = o.bank_groups * o.banks_per_group
    bank_field = o.stack_ids * o.banks_per_group
    group, bank = np.divmod(np.arange(o.bank_groups * bank_field), bank_field)
    places = bank // o.banks_per_group * stack_banks + group * o.banks_per_group + bank % o.banks_per_group
    interval, refresh_ticks = {
        "per-bank": (timing.nREFIpb, timing.nRFCpb),
        "all-bank": (timing.nREFI, timing.nRFC),
        "none": (k.NEVER, 0),
    }[policy.refresh]
    if policy.scheduler == "per-bank-queues":
        above = math.ceil(_exact(policy.write_high) * policy.write_queue)
        below = math.floor(_exact(policy.write_low) * policy.write_queue)
    else:
        above = math.floor(_exact(policy.write_high) * policy.write_queue)
        below = max(1, math.ceil(_exact(policy.write_low) * policy.write_queue))
    constants = {
        k.CHANNELS: stacks * o.channels,
        k.PER_CHANNEL: o.pseudo_channels,
        k.STACK_IDS: o.stack_ids,
        k.STACK_ID_SHIFT: stack_banks.bit_length() - 1,
        k.GROUP_SHIFT: o.banks_per_group.bit_length() - 1,
        k.BANKS: o.banks,
        k.BANK_STRIDE: MAX_BANKS if policy.scheduler != "per-bank-queues" else 1 << (o.banks - 1).bit_length(),
        k.DEPTH: policy.read_queue,
        k.DEPTH + 1: policy.write_queue,
        k.DRAIN_ABOVE: above,
        k.DRAIN_BELOW: below,
        k.SCHEDULER: SCHEDULERS.index(policy.scheduler),
        k.MERGE: policy.merge,
        k.CLOSE_AFTER: policy.close_after_ticks,
        k.REFRESH: REFRESH_POLICIES.index(policy.refresh),
        k.REFRESH_INTERVAL: interval,
        k.REFRESH_TICKS: refresh_ticks,
        k.HIT_STREAK: policy.hit_streak,
        k.QUEUE_DEPTH: policy.bank_queue,
        k.RISING: timing.ticks_per_ck - 1,
        k.ACT_TICKS: timing.act_ticks,
        k.COLUMN_TICKS: timing.column_ticks,
        k.ONE_BUS: o.command_buses == 1,
        k.READ_TICKS: timing.nCL + timing.nBL,
        k.READ_TICKS + 1: timing.nCWL + timing.nBL,
        k.BURST_TICKS: timing.nBL,
        k.BURST_BYTES: o.burst_bytes,
        k.BANK_FIELD: bank_field,
        k.CHANNEL_FIELD: o.channels,
        k.FREE_BURST: k.NONE,
        k.FREE_REQUEST: k.NONE,
        k.STOP_AT: k.NEVER,
        k.SOURCE_CHANNEL: k.NONE,
    }
    scalars = np.zeros(k.PLACES + len(places), np.int64)
    scalars[list(constants)] = list(constants.values())
    scalars[k.PLACES :] = places
    return scalars


def _exact(share: float) -> Fraction:
    """Return the decimal fraction that was written."""
    return Fraction(str(share))


def _channels(count: int, words: int, o: Organisation, scalars: Array) -> Array:
    """Return the channels at rest: all banks closed, every command allowed."""
    channel = np.zeros(k.SLOTS + words * k.WORDS_PER_MASK_WORD, np.int64)
    channel[[k.COLUMN_WAKE, k.ROW_WAKE, k.ARRIVES]] = k.NEVER
    channel[k.ACTIVE_WAKE : k.OTHER_WAKE + 1] = k.NEVER
    channel[k.RECOUNTED] = 1
    channel[[k.INBOX_HEAD, k.INBOX_TAIL]] = k.NONE
    channel[k.REFRESH_DUE] = scalars[k.REFRESH_INTERVAL]
    if scalars[k.SCHEDULER] == k.PER_BANK_QUEUES:
        channel[[k.TICK, k.LAST_BANK]] = -1
    channel[k.SLOTS : k.SLOTS + 2 * 64 * words * k.SLOT_FIELDS].reshape(-1, k.SLOT_FIELDS)[:, k.SLOT_BURST] = k.NONE
    pcs = channel[k.PCS : k.BANK_ROWS].reshape(MAX_PCS, k.PC_FIELDS)
    pcs[:, k.FAW : k.FAW + 4] = k.LONG_AGO
    pcs[:, k.REFRESHING] = k.NONE
    pcs[o.pseudo_channels :, : k.COMMAND_SLOTS] = k.NEVER
    banks = channel[k.BANK_ROWS : k.READY].reshape(-1, k.BANK_FIELDS)
    banks[:, k.OPEN_ROW] = k.NONE
    banks[:, [k.ACT_TICK, k.USED_TICK, k.REFRESHED_UNTIL]] = k.LONG_AGO
    if scalars[k.SCHEDULER] != k.PER_BANK_QUEUES:
        banks[:, k.HIT_FIRST : k.OTHER_LAST + 2] = k.NONE
    banks[:, k.BANK_PC] = np.arange(len(banks)) // scalars[k.BANK_STRIDE]
    channels = aligned(np.tile(channel, (count, 1)), count)
    channels[:, k.INDEX] = np.arange(count)
    return channels


def aligned(array: Array, rows: int) -> Array:
    """Return the rows of an int64 table and zeros up to so many rows, from the beginning of a line of the cache on."""
    numbers = np.zeros(rows * array.shape[1] + LINE, np.int64)
    first = -(numbers.ctypes.data // numbers.itemsize) % LINE
    table = numbers[first : first + rows * array.shape[1]].reshape(rows, array.shape[1])
    table[: len(array)] = array
    return table


def _address_map(tables: tuple[Array, Array], sizes: dict[str, int]) -> tuple[Array, int, int]:
    """Return (digit rows then hash rows, number of digits, capacity in bytes) for the decoder.

    Digits are sorted by divisor, each dividing the next, so that one running quotient serves them all.
    """
    digits = sorted(tuple(int(value) for value in row) for row in tables[0])
    hashes = [tuple(int(value) for value in row) for row in tables[1]]
    extents = [1] * len(_FIELDS)
    capacity, reached = 0, 1
    rows = []
    for divisor, modulus, field, multiplier in digits:
        if divisor % reached or modulus < 1:
            raise ValueError(f"address map: digit of divisor {divisor}: not a multiple of {reached} of the digit below")
        step, reached = divisor // reached, divisor
        extents[field] += (modulus - 1) * multiplier
        capacity = max(capacity, divisor * modulus)
        rows.append((_log2(step), step, modulus - 1 if _log2(modulus) >= 0 else -1, modulus, field, multiplier))
    for name, extent in zip(_FIELDS, extents, strict=True):
        if extent > sizes[name]:
            raise ValueError(f"address map: {name} reaches {extent - 1}, but there are {sizes[name]}")
    for target, bit, _, _, _, turned in hashes:
        if turned:
            continue
        size = sizes[_FIELDS[target]]
        if size % (2 << bit):
            raise ValueError(f"address map: hash into bit {bit} of {_FIELDS[target]}, whose size is {size}")
    table = np.zeros((len(rows) + len(hashes), 6), np.int64)
    table[: len(rows)] = rows
    if hashes:
        table[len(rows) :] = hashes
    return table, len(rows), capacity


def _block_shift(digits: Array, hashes: Array) -> int:
    """Return log2 of the largest aligned block of addresses, a power of two of bytes, that surely lies in one row."""
    column = _FIELDS.index("column")
    hashed = {int(bit) for field, bit in hashes[:, [k.HASH_SOURCE, k.HASH_SOURCE_BIT]] if field == column}
    shift = max(0, int(digits[0, k.DIGIT_SHIFT])) if len(digits) else 0
    for place, digit in enumerate(digits):
        multiplier, modulus = _log2(int(digit[k.DIGIT_MULTIPLIER])), _log2(int(digit[k.DIGIT_MODULUS]))
        if digit[k.DIGIT_FIELD] != column or min(digit[k.DIGIT_SHIFT], multiplier, modulus) < 0:
            break
        if place and digit[k.DIGIT_STEP] != digits[place - 1, k.DIGIT_MODULUS]:
            break
        free = next((bit for bit in range(modulus) if multiplier + bit in hashed), modulus)
        shift += free
        if free < modulus:
            break
    return shift


def _log2(value: int) -> int:
    """Return the exponent of a power of two, -1 of any other number."""
    return value.bit_length() - 1 if value & (value - 1) == 0 else -1

-- The state of buckets, by the index of their key.
--
-- One string of doubles for each: used (micro-tokens); at (the time of that amount, in microseconds since 1970 UTC); keep
-- (the time until which the string has to live); and only where part of a micro-token has drained, that part: numerator,
-- denominator. It is the same for every kind of limit, so that what was consumed stays consumed when a limit changes, and
-- `keep` never decreases, so that a quota's state survives a change to a fast bucket and back. After these five, always all
-- of them, come those of `wide` (levels.lua), if there are any: the first three numbers, how many levels, and five for each.
-- One more number comes at the end, if it is not 0: once some of it was reserved or granted, the micro-tokens that were refunded
-- so far, and one; and while limits of different rates or windows charge it, half of one. Whatever follows is of a later version,
-- and ignored.
local GRACE_MS = 60000 -- how long an untouched bucket is kept

local stored = KEYS[1] and redis.call('MGET', unpack(KEYS))
local used, at, keep, part, per = {}, {}, {}, {}, {}
local refunds = {} -- nil for a bucket of which nothing was reserved or granted
local mixed = {} -- true for a bucket that limits of different rates or windows charge, so that one may lower it for another; else nil
-- The buckets with levels, by the index of their key; nil while there is none. Each is an array, which is replaced and never
-- changed: the rate at which `used` drains, as micro-tokens per microseconds; the time when it is void all the same, since
-- the limits that it was charged by were unknown; and the levels, the one charged last first. Each is an array of its
-- limit's capacity and rate, and, as of `at`, what is used by it, and the numerator of the part of a micro-token that has
-- drained.
local wide

local MAX = 9007199254740991 -- 2^53 - 1, below which doubles are exact

-- The time until AMOUNT micro-tokens have drained, of which DONE / DEN of one has already. Quotient and remainder are
-- computed separately because AMOUNT * DEN may exceed 2^53, NUM * DEN does not.
local function time_until_drained(amount, done, num, den)
  local whole = math.floor(amount / num)
  return whole * den + math.ceil(((amount - whole * num) * den - done) / num)
end

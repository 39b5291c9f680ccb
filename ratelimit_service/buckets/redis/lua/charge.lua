-- Makes a batch of charges, in order, each with all of its buckets or with none. buckets/reference.py is the same in
-- Python, without the care that doubles need.
--
-- KEYS     the keys of all buckets and requests of the batch, each once; then that of usage, if anything is counted.
-- ARGV[1]  MessagePack: one flat array of integers. Per charge: the number of its buckets (plus 1024 if one of them has an
--          overdraft, 2048 if it is made afterwards, 4096 if it is reserved, 8192 if it settles a reservation, 16384 if it
--          extends one; 32768 beside 4096 if it grants units, beside 8192 if it returns some); the index of the key that keeps
--          the result of its request, once it is charged (0: no request); the index of the series that counts it (0: none;
--          negative: the number of series that follow below); of a reservation the index of the key that keeps it, and the
--          microseconds for which it is held (0: it is settled); of a grant the microseconds that it lasts at most, the units
--          that are wanted, the number in which one of those left is granted, and the number of its call; of its return
--          the units that were not used. Then per bucket: the index of the key that keeps its state; the
--          cost in tokens; its kind (1 token bucket, 2 to 8 quotas, see windows.lua, 9 slots; plus 16 times the number of its
--          family, if callers make such buckets by choosing values; negative: shadow); its capacity in
--          micro-tokens; its rate as micro-tokens per microseconds in lowest terms (0 and 0 but for a token bucket); and after
--          the number of buckets plus 1024 or more, its overdraft in micro-tokens (-1: none is set); and where a
--          reservation is settled or extended, the tokens that were reserved; where a grant is returned 0, as its cost. Then, unless
--          one series counts all buckets in their order at the cost of the first, per series: its index; the calls
--          (0 for a refund); the tokens; the number of its limits; the number of its positions, and these: the indexes
--          from 0 of its buckets, for one limit after another. Where a grant is returned its counts are in place of positions.
-- ARGV[2]  the milliseconds for which the result of a request that was charged is kept.
-- ARGV[3]  MessagePack: the fields of the series, each once. Missing if nothing is counted, and so is
-- ARGV[4]  the bytes that counts may take in the store.
-- Returns one flat array. Per charge: 1 when charged, else 0, or -1 if it reserves nothing and time alone ends its waits; of one
--          made afterwards, or settled, 2, plus 1 if an enforced limit has nothing left, plus twice the most tokens that one of
--          its limits did not record; of a hold that is extended the
--          microseconds that it lasts; 0 where there is no such reservation. Then per bucket: the micro-tokens that
--          remain; the microseconds to wait (-1: no wait helps; -2: no room for it; -3: it is not known when a slot comes
--          back); the microseconds until it is untouched. Of a reservation lastly when its hold ended before, and when it ends
--          now, in microseconds since 1970 UTC (0: it was not open, or is not); both 0 if nothing has changed. Of a grant
--          firstly the units that it took now, those that it has, and the microseconds that it lasts (without units -1: its name was used;
--          -2: no room for it; of a quota's window that ends too soon the rest; else 0); of its return whether there was one (1: it is
--          returned; 2: it was before; 0: none), the units that are returned, the microseconds for which it would have lasted still,
--          and per bucket the tokens that each had taken.
--
-- A reservation that is open is kept as 'o', the time when it was made, that when its hold ends, and the second with which its
-- slots come back, as doubles; then a byte for each of its buckets from which nothing was taken, its position from 0: shadow
-- limits without room. One with a request is kept as 'n' and these doubles, the number of its buckets in two bytes, eight bytes
-- for each by which it is known again, and then those positions: a repeat of the request may have an id of other buckets, if its
-- policy has changed. One that was settled is kept as 's' and its packed result, for as long as the results of requests are; if it
-- had a request, with those eight bytes for each bucket of the settlement.
--
-- Publishes the names of the buckets to which something was returned, joined by blanks: who remembers denials forgets theirs.
--
-- All numbers are integers below 2^53, where doubles are exact. Nothing is written before everything is computed. What is decided
-- now is counted last, and fails no charge.
--
-- Most charges are plain, and a script that runs for one of them spends most of its time on making its own functions: so those are
-- decided by plain.lua, the end of this script, and there are no functions but in make_others (others.lua), which decides all the
-- rest. The parts before this one define ROOM_LEFT (room.py), `now`, and the state of buckets. What both need is here.
local TOKEN = 1000000 -- micro-tokens
local batch = cmsgpack.unpack(ARGV[1])
local floor = math.floor
local dirty = {} -- the buckets that have changed, by key
local out = {}
local allowed, spent, more = {}, {}, {} -- counts, by series; see usage_add
local decided, refunded = 0, false -- calls to count; whether there are refunds to count

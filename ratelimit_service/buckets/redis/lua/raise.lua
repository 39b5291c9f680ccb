-- Raises quotas to what is known to have been used of them, after the store has lost data (docs/adr/0025). Idempotent: it never
-- lowers what is used, and never adds to it.
--
-- KEYS     the keys of the quotas, each once.
-- ARGV     MessagePack: one flat array of integers. Per quota: its kind (4 to 8, see windows.lua); the first microsecond of
--          the window in which it was used; and the micro-tokens that were used, at least.
-- Returns  one number per quota: 1 when it was raised; 0 when as much was used already; -1 when its window is over.
--
-- The parts before this one define `now`, `window_of`, and the state and levels of buckets. Levels of token buckets with the same
-- name stay what they are.
local raises = cmsgpack.unpack(ARGV[1])
local levels -- the functions of levels.lua; nil until a bucket has some
local out = {}

for k = 1, #KEYS do
  local kind, start, value = raises[3 * k - 2], raises[3 * k - 1], raises[3 * k]
  local opening, closing = window_of(kind, now)
  read(k)
  local earlier = at[k] < opening -- what is used is of a window that is over
  if opening ~= start then
    out[k] = -1
  elseif (earlier and 0 or used[k]) >= value then
    out[k] = 0
  else
    if wide and wide[k] then
      levels = levels or make_levels(used, at, keep, part, per, wide, time_until_drained, MAX)
      levels.charge(k, kind, 0, math.max(at[k], now), closing, value, 0, 0, value, 0)
    else
      used[k] = value
      if earlier then at[k], part[k], per[k] = now, 0, 1 end
    end
    keep[k] = math.max(keep[k], closing)
    write(k)
    out[k] = 1
  end
end
return out

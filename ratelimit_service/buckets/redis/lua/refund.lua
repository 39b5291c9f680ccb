-- Gives back what a charge took a moment ago, because another part of it was denied in another slot; once, however often
-- it is asked.
--
-- KEYS     the outcome of the charge's request, which is kept from the moment of the charge; then its buckets.
-- ARGV[1]  for how many milliseconds an outcome is kept.
-- ARGV     then per bucket five: the micro-tokens taken; the micro-tokens that were used before; the rate as micro-tokens
--          per microseconds (0 and 0 for a quota); the microseconds from the charge to the end of its window.
-- Returns  1, or 0 when it was given back before, or never taken.
--
-- Never more than the bucket would have without the charge: what has drained of it since is not given back again. A bucket
-- that was used enough before has drained of that, so it gets all of it back.
local left = redis.call('PTTL', KEYS[1])
if left < 0 then return 0 end
redis.call('DEL', KEYS[1])
-- At the most: both times are rounded to milliseconds.
local elapsed = (tonumber(ARGV[1]) - left + 2) * 1000

local a = 2
for k = 2, #KEYS do
  local taken, before = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local num, den, rest = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  a = a + 5
  local back = taken
  if den > 0 then
    -- Quotient and remainder apart, because elapsed * num may pass 2^53. Rounded up: rather too much than too little.
    local periods = math.floor(elapsed / den)
    local drained = periods * num + math.ceil((elapsed - periods * den) * num / den)
    if drained > before then back = taken - (drained - before) end
  elseif elapsed >= rest then
    back = 0
  end
  local state = back > 0 and redis.call('GET', KEYS[k])
  if state then
    -- `used` is true for the time of the last charge. Less of this charge has drained then than now, so it holds `back`.
    local used = math.max(0, struct.unpack('<d', state) - back)
    redis.call('SET', KEYS[k], struct.pack('<d', used) .. string.sub(state, 9), 'KEEPTTL')
  end
end
return 1

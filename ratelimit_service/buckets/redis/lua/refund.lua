-- Refunds what a charge took a moment ago, because another part of it was denied in another slot; idempotent.
--
-- KEYS     the key of the request's result, with a TTL that began at the charge; then those of the charge's buckets.
-- ARGV[1]  the milliseconds for which a result is kept, unless it is followed by another number of them.
-- ARGV     then five per bucket: the micro-tokens taken; the micro-tokens that were used before; the rate as micro-tokens
--          per microseconds (0 and 0 for a quota); the microseconds from the charge to the end of its window.
-- Returns  1, or 0 when it was refunded before, or never taken.
--
-- Publishes the names of the buckets to which something was returned, as others.lua does.
--
-- The bucket never gets more than it would have without the charge: what has drained of the charge since is not refunded.
-- Where enough was used before the charge, that has drained instead, and the whole charge is refunded.
local left = redis.call('PTTL', KEYS[1])
if left < 0 then return 0 end
local _, short = cmsgpack.unpack(redis.call('GET', KEYS[1])) -- of a server that was full
redis.call('DEL', KEYS[1])
-- An upper bound: both times are rounded to milliseconds.
local elapsed = ((short or tonumber(ARGV[1])) - left + 2) * 1000

local a, names = 2, {}
for k = 2, #KEYS do
  local taken, before = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local num, den, rest = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  a = a + 5
  local refund = taken
  if den > 0 then
    -- Quotient and remainder separately, because elapsed * num may exceed 2^53. Rounded up, so as to refund too little
    -- rather than too much.
    local periods = math.floor(elapsed / den)
    local drained = periods * num + math.ceil((elapsed - periods * den) * num / den)
    if drained > before then refund = taken - (drained - before) end
  elseif elapsed >= rest then
    refund = 0
  end
  local state = refund > 0 and redis.call('GET', KEYS[k])
  if state then
    -- `used` is as of the last charge. Less of this charge had drained then than now, so `used` includes `refund`. So does
    -- a level of this rate (levels.lua), by which the limit was charged if there is one: then only that is lowered, since
    -- what is used in all may have drained faster.
    local at, levels = 1, #state >= 72 and struct.unpack('<d', state, 65) or 0
    for i = 97, 57 + 40 * levels, 40 do
      local level_num, level_den = struct.unpack('<dd', state, i - 16)
      if at == 1 and level_num == num and level_den == den then at = i end
    end
    local used = math.max(0, struct.unpack('<d', state, at) - refund)
    state = string.sub(state, 1, at - 1) .. struct.pack('<d', used) .. string.sub(state, at + 8)
    -- What was refunded so far (state.lua), if that is counted.
    local size = levels > 0 and 80 + 40 * levels or 48
    local refunded = #state == size and struct.unpack('<d', state, size - 7) or 0
    if refunded >= 1 then state = string.sub(state, 1, size - 8) .. struct.pack('<d', refunded + refund) end
    redis.call('SET', KEYS[k], state, 'KEEPTTL')
    names[#names + 1] = string.match(KEYS[k], '}:b:(.*)')
  end
end
if #names > 0 then redis.pcall('PUBLISH', 'ratelimit:returned', table.concat(names, ' ')) end
return 1

-- What was announced (announce.lua) since a position.
--
-- KEYS[1]  what the keys of announcements begin with.
-- ARGV[1]  the second up to which they were read, since 1970 UTC, and
-- ARGV[2]  how many of that second.
-- Returns both as they are now, and then the names: of what is older than two seconds none.
--
-- The part before this one sets `now`.

local SECONDS = 2
local second, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local this = math.floor(now / 1000000)
local out = {this, this == second and count or 0}
for each = math.max(second, this - SECONDS), this do
  local names = redis.call('LRANGE', KEYS[1] .. string.format('%.0f', each), each == second and count or 0, -1)
  for i = 1, #names do out[#out + 1] = names[i] end
  if each == this then out[2] = out[2] + #names end
end
return out

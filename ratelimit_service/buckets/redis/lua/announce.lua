-- Announces pools whose holders should give something up, to all servers: MAX in a second, and then none.
--
-- KEYS[1]  what the keys of announcements begin with: there is one for each second.
-- ARGV     the names of the pools.
--
-- The part before this one sets `now`.

local MAX = 10000
local key = KEYS[1] .. string.format('%.0f', math.floor(now / 1000000))
if redis.call('LLEN', key) > MAX then return 0 end
for i = 1, #ARGV do redis.call('RPUSH', key, ARGV[i]) end
redis.call('EXPIRE', key, 10)
return #ARGV

-- The slots of concurrency limits that are taken; reference.py has the same.
--
-- One string for each limit: for each second in which slots come back by themselves, the first one first, that second since
-- 1970 UTC and how many, as unsigned integers of 32 bits. A hold ends within its last second, and its slot with that second.
local SECOND = 1000000
local RUN = 500 -- seconds that are read at once: all of them go through Lua's stack

-- The functions of slots, made by the first charge of a run that has some: most runs have none and do not pay for them.
-- The arguments are the locals of those names.
local function make_slots(now, stored)
  -- By the index of the key: an array of seconds, each followed by its count; `total` of all.
  local taken = {}

  local function of(k)
    local slots = taken[k]
    if slots then return slots end
    slots = {total = 0}
    local state, n = stored[k] or '', 0
    for from = 1, #state, 8 * RUN do
      local pairs = math.min(RUN, (#state - from + 1) / 8)
      local numbers = {struct.unpack('<' .. string.rep('I4I4', pairs), state, from)}
      for i = 1, 2 * pairs, 2 do
        if numbers[i] * SECOND > now then -- the others have come back
          slots[n + 1], slots[n + 2], slots.total = numbers[i], numbers[i + 1], slots.total + numbers[i + 1]
          n = n + 2
        end
      end
    end
    taken[k] = slots
    return slots
  end

  -- Takes a slot until `second`, or with -1 as COUNT returns one that was taken until then. Whether there was one.
  local function add(k, second, count)
    local slots = of(k)
    local i = #slots + 1
    while i > 1 and slots[i - 2] >= second do i = i - 2 end
    if slots[i] ~= second then
      if count < 0 then return false end
      table.insert(slots, i, second)
      table.insert(slots, i + 1, 0)
    end
    slots[i + 1], slots.total = slots[i + 1] + count, slots.total + count
    if slots[i + 1] == 0 then
      table.remove(slots, i)
      table.remove(slots, i)
    end
    return true
  end

  -- The microseconds until all slots have come back by themselves.
  local function reset(k)
    local slots = of(k)
    return #slots > 0 and slots[#slots - 1] * SECOND - now or 0
  end

  local function write(key, k)
    local slots = taken[k]
    if #slots == 0 then
      redis.call('DEL', key)
      return
    end
    local parts = {}
    for i = 1, #slots, 2 do parts[#parts + 1] = struct.pack('<I4I4', slots[i], slots[i + 1]) end
    redis.call('SET', key, table.concat(parts), 'PX', string.format('%.0f', math.ceil(reset(k) / 1000)))
  end

  return {
    taken = taken,
    total = function(k) return of(k).total end,
    second = function(at) return math.ceil(at / SECOND) end,
    add = add,
    reset = reset,
    write = write,
  }
end

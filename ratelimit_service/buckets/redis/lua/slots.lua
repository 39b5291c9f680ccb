-- The slots of concurrency limits that are taken; reference.py has the same.
--
-- One string for each limit: how many are taken, and for each second in which some come back by themselves, the first one
-- first, that second since 1970 UTC and how many; all of them unsigned integers of 32 bits. Slots come back when a hold of less
-- than 64 s ends, to the second, and of longer ones up to a 32nd of it later, so that there are a few hundred seconds at most,
-- whatever callers ask for. Nothing of it is unpacked but what is needed.
local SECOND = 1000000

-- The functions of slots, made by the first charge of a run that has some: most runs have none and do not pay for them.
-- The arguments are the locals of those names.
local function make_slots(now, stored)
  local taken = {} -- by the index of the key: the `total`, and the `seconds`, 8 bytes each

  local function of(k)
    local slots = taken[k]
    if slots then return slots end
    local state = stored[k]
    slots = {total = state and struct.unpack('<I4', state) or 0, seconds = state and string.sub(state, 5) or ''}
    local from = 1
    while from < #slots.seconds do
      local second, count = struct.unpack('<I4I4', slots.seconds, from)
      if second * SECOND > now then break end
      slots.total, from = slots.total - count, from + 8
    end
    if from > 1 then slots.seconds = string.sub(slots.seconds, from) end
    taken[k] = slots
    return slots
  end

  -- Takes a slot until `second`, or with -1 as COUNT returns one that was taken until then. Whether there was one.
  local function add(k, second, count)
    local slots = of(k)
    local seconds = slots.seconds
    local low, high = 0, #seconds / 8 -- the entries before `low` are earlier, those from `high` on are not
    while low < high do
      local middle = math.floor((low + high) / 2)
      if struct.unpack('<I4', seconds, 8 * middle + 1) < second then low = middle + 1 else high = middle end
    end
    local at, before = 8 * low + 1, 0
    if at < #seconds and struct.unpack('<I4', seconds, at) == second then before = struct.unpack('<I4', seconds, at + 4) end
    if before + count < 0 then return false end
    local entry = before + count > 0 and struct.pack('<I4I4', second, before + count) or ''
    slots.seconds = string.sub(seconds, 1, at - 1) .. entry .. string.sub(seconds, before > 0 and at + 8 or at)
    slots.total = slots.total + count
    return true
  end

  -- The second with which a slot comes back whose hold of so many microseconds ends `at`.
  local function second_of(at, hold)
    local step, most = 1, 64 * SECOND
    while hold >= most do step, most = 2 * step, 2 * most end
    return math.ceil(at / SECOND / step) * step
  end

  -- The microseconds until all slots have come back by themselves.
  local function reset(k)
    local seconds = of(k).seconds
    return #seconds > 0 and struct.unpack('<I4', seconds, #seconds - 7) * SECOND - now or 0
  end

  local function write(key, k)
    local slots = taken[k]
    if slots.seconds == '' then
      redis.call('DEL', key)
    else
      local last = string.format('%.0f', math.ceil(reset(k) / 1000) + GRACE_MS)
      redis.call('SET', key, struct.pack('<I4', slots.total) .. slots.seconds, 'PX', last)
    end
  end

  return {
    taken = taken,
    total = function(k) return of(k).total end,
    second_of = second_of,
    add = add,
    reset = reset,
    write = write,
  }
end

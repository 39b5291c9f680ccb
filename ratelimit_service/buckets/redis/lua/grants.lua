-- Units of calls that their holders spend by themselves (docs/adr/0038); reference.py has the same.
--
-- A grant is kept as 'h', the time when it was made, that when it ends, its units, and the number of its call, as doubles; then
-- for each bucket from which it took something the eight bytes by which that is known again, and as doubles the tokens of one unit,
-- the micro-tokens that were used after it, and those that had been refunded (state.lua). An earlier version kept 'g', without the
-- last two. One that was returned is kept as 's', whether it had been made or not, so that it is made no more, and returned once.
local MIN_GRANT = 10000 -- microseconds: a shorter one would be over before it reaches its holder
local GRANT_MS = 5000 -- how long a grant is kept after it has ended, so that it can be returned

-- The functions of grants, made by the first charge of a run that is one: most runs have none and do not pay for them.
-- The arguments are the locals of those names.
local function make_grants(now, batch, out, more, refunds, TOKEN, window)
  -- The grant that is KEPT, nil if there is none; and whether it was returned.
  local function read(kept)
    if not kept or kept == 's' then return nil, kept == 's' end
    local made, ends, units, call = struct.unpack('<dddd', kept, 2)
    local size = string.sub(kept, 1, 1) == 'g' and 16 or 32
    return {made = made, ends = ends, units = units, call = call, parts = string.sub(kept, 34), size = size}, false
  end

  -- What is kept of a grant with so many UNITS, to COUNT buckets from batch[p] on with these MARKS, but for those UNTAKEN; by the
  -- results after it at out[o] on. Has what is refunded of the buckets counted from now on.
  local function pack(p, o, count, marks, untaken, units, ends, call)
    local parts = {}
    for i = 0, count - 1 do
      if batch[p + 1] > 0 and not string.find(untaken, string.char(i), 1, true) then
        local k = batch[p]
        refunds[k] = refunds[k] or 1
        local numbers = struct.pack('<ddd', batch[p + 1] / units, batch[p + 3] - out[o], refunds[k])
        parts[#parts + 1] = string.sub(marks, 8 * i + 1, 8 * i + 8) .. numbers
      end
      p, o = p + 7, o + 3
    end
    return 'h' .. struct.pack('<dddd', now, ends, units, call) .. table.concat(parts)
  end

  -- The units that a grant gets, WANTS at most, and the microseconds that it lasts, TTL at most, by the results at out[o] on of
  -- COUNT buckets from batch[p] on, which have room for one unit.
  local function size(p, o, count, wants, share, ttl)
    for _ = 1, count do
      local tokens, kind = batch[p + 1], batch[p + 2]
      if kind > 0 and tokens > 0 then
        local fit = math.floor(out[o] / (tokens * TOKEN))
        wants = math.min(wants, math.max(math.floor(fit / share), 1))
        if kind % 16 ~= 1 then
          local _, closing = window(kind % 16, now)
          ttl = math.min(ttl, closing - now)
        end
      end
      p, o = p + 7, o + 3
    end
    return wants, ttl
  end

  -- Has COUNT buckets from batch[p] on, with these MARKS, settle a grant of which so many UNITS are returned: as costs below 0, and
  -- what was taken in all. Writes the tokens of one unit of each to out[o] on, 0 of those that it took nothing from. Returns by
  -- the position of each, from 1, what was used after it, and refunded before, if that is known.
  local function settle(p, o, count, marks, grant, units)
    local levels = {}
    for i = 0, count - 1 do
      local tokens, mark = 0, string.sub(marks, 8 * i + 1, 8 * i + 8)
      for at = 1, #grant.parts, grant.size do
        if string.sub(grant.parts, at, at + 7) == mark then
          tokens = struct.unpack('<d', grant.parts, at + 8)
          if grant.size == 32 then levels[i + 1] = {struct.unpack('<dd', grant.parts, at + 16)} end
        end
      end
      batch[p + 1], batch[p + 7], out[o + i] = -units * tokens, grant.units * tokens, tokens
      p = p + 8
    end
    return levels
  end

  -- Adds what the holder of a grant reports to the counts of COUNT series, from batch[b] on. Returns the calls.
  local function add(count, b)
    local calls = 0
    for _ = 1, count do
      local series, numbers = batch[b], batch[b + 4]
      local counts = more[series] or {0, 0, 0, 0, 0}
      more[series] = counts
      for i = #counts + 1, numbers do counts[i] = 0 end
      for i = 1, numbers do counts[i] = counts[i] + batch[b + 4 + i] end
      calls = calls + batch[b + 5] + batch[b + 7] -- allowed and denied
      b = b + 5 + numbers
    end
    return calls
  end

  return {read = read, pack = pack, size = size, settle = settle, add = add}
end

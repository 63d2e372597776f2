-- The routing of tests/cfg/plain.cfg in Lua. FORM in the environment says which functions it calls: plain, async, or joint
-- (auth_save_async).

local form = os.getenv("FORM")
local UNAVAILABLE = -10

local function unavailable()
    KSR.hdr.append_to_reply("Retry-After: 5\r\n")
    KSR.sl.send_reply(503, "Service Unavailable")
end

-- What the result of a check of credentials says when it is not 1.
local function refuse(rc, realm)
    if rc == UNAVAILABLE then
        unavailable()
    else
        KSR.auth.auth_challenge(realm, 1)
    end
end

local function relay()
    KSR.auth.consume_credentials()
    KSR.rr.record_route()
    KSR.cassandra.call_attr("form", form)
    KSR.cassandra.call_event("call-attempt", "trunk=$rU;kept=" .. KSR.pv.get("$cassandra_call(form)"))
    KSR.tm.t_relay()
end

-- A caller may have as many calls as it may.
function counted()
    local rc = KSR.pv.get("$cassandra(rc)")
    if rc == UNAVAILABLE then return unavailable() end
    KSR.hdr.append_to_reply("X-Calls: " .. rc .. " " .. KSR.pv.get("$cassandra(calls)") .. "\r\n")
    KSR.sl.send_reply(486, "Counted")
end

local count = {
    plain = function(uri)
        KSR.cassandra.calls_count("subscriber", uri)
        counted()
    end,
    async = function(uri)
        KSR.tm.t_newtran()
        KSR.cassandra.calls_count_async("subscriber", uri, "counted")
    end,
}

-- Whom an alias means.
function meant()
    local what = KSR.pv.get("$cassandra(rc)") .. " " .. KSR.pv.getw("$cassandra(aor)") .. " " .. KSR.pv.get("$ru")
    KSR.hdr.append_to_reply("X-Meant: " .. what .. "\r\n")
    KSR.sl.send_reply(200, "OK")
end

local alias = {
    lookup_plain = function() KSR.cassandra.alias_lookup("alias") end,
    lookup_ex_plain = function() KSR.cassandra.alias_lookup_ex("alias", "u") end,
    find_plain = function(uri) KSR.cassandra.alias_find("alias", uri, "") end,
    lookup_async = function() return KSR.cassandra.alias_lookup_async("alias", "meant") end,
    lookup_ex_async = function() return KSR.cassandra.alias_lookup_ex_async("alias", "u", "meant") end,
    find_async = function(uri) return KSR.cassandra.alias_find_async("alias", uri, "", "meant") end,
}

local function resolve(which, uri)
    if alias[which .. "_" .. form](uri) ~= 0 then meant() end
end

local function found(rc)
    if rc == 1 then
        relay()
    elseif rc == UNAVAILABLE then
        unavailable()
    else
        KSR.sl.send_reply(404, "Not Found")
    end
end

-- The callbacks of the async functions; each finds the result in $cassandra(rc).

function saved()
    if KSR.pv.get("$cassandra(rc)") == UNAVAILABLE then unavailable() end
end

function registrant_checked()
    local rc = KSR.pv.get("$cassandra(rc)")
    if rc ~= 1 then return refuse(rc, KSR.pv.get("$td")) end
    rc = KSR.cassandra.save_uri_async("location", 0, KSR.pv.get("$tu"), "saved")
    if rc == UNAVAILABLE then unavailable() end
end

function registered()
    local rc = KSR.pv.get("$cassandra(rc)")
    if rc < 0 then refuse(rc, KSR.pv.get("$td")) end
end

function caller_checked()
    local rc = KSR.pv.get("$cassandra(rc)")
    if rc ~= 1 then return refuse(rc, KSR.pv.get("$fd")) end
    rc = KSR.cassandra.lookup_async("location", "looked_up")
    if rc ~= 0 then found(rc) end
end

function looked_up()
    found(KSR.pv.get("$cassandra(rc)"))
end

local register = {
    plain = function(realm)
        local rc = KSR.cassandra.auth_check(realm, "subscriber", 1)
        if rc ~= 1 then return refuse(rc, realm) end
        if KSR.cassandra.save("location", 0) == UNAVAILABLE then unavailable() end
    end,
    async = function(realm)
        local rc = KSR.cassandra.auth_check_async(realm, "subscriber", 1, "registrant_checked")
        if rc ~= 0 then refuse(rc, realm) end
    end,
    joint = function(realm)
        local rc = KSR.cassandra.auth_save_async(realm, 0, "registered")
        if rc ~= 0 then refuse(rc, realm) end
    end,
}

local call = {
    plain = function(realm)
        local rc = KSR.cassandra.proxy_authenticate(realm, "subscriber")
        if rc ~= 1 then return refuse(rc, realm) end
        found(KSR.cassandra.lookup_uri("location", KSR.pv.get("$ru")))
    end,
    async = function(realm)
        local rc = KSR.cassandra.proxy_authenticate_async(realm, "subscriber", "caller_checked")
        if rc ~= 0 then refuse(rc, realm) end
    end,
}

-- What KSR.cassandra offers, for the test that compares it.
local function list_functions()
    local names = {}
    for name in pairs(KSR.cassandra) do names[#names + 1] = name end
    KSR.hdr.append_to_reply("X-Functions: " .. table.concat(names, " ") .. "\r\n")
end

function ksr_request_route()
    local method = KSR.pv.get("$rm")
    if method == "OPTIONS" then
        list_functions()
        KSR.sl.sl_send_reply(200, "OK")
    elseif KSR.siputils.has_totag() > 0 then
        if method == "BYE" then KSR.cassandra.call_event("call-end", "code=200") end
        if KSR.rr.loose_route() > 0 then KSR.tm.t_relay() end
    elseif method == "CANCEL" or method == "ACK" then
        if KSR.tm.t_check_trans() > 0 then KSR.tm.t_relay() end
    elseif KSR.pv.get("$rU") == "count" then
        count[form](KSR.pv.get("$fu"))
    elseif method == "MESSAGE" then
        resolve(KSR.pv.get("$hdr(X-Function)"), KSR.pv.get("$ru"))
    elseif method == "REGISTER" then
        register[form](KSR.pv.get("$td"))
    else
        call[form](KSR.pv.get("$fd"))
    end
    return 1
end

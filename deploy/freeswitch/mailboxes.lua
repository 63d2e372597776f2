-- Asked whether somebody is there: a subscriber is whoever dispatchers let call, so everybody who is asked for has a mailbox.
local user, domain = params:getHeader("user"), params:getHeader("domain")

local function is_plain(text)
    return text ~= nil and text:match("^[%w%+%*%-%._]+$") ~= nil
end

if is_plain(user) and is_plain(domain) then
    XML_STRING = string.format([[
        <document type="freeswitch/xml"><section name="directory"><domain name="%s">
            <user id="%s"><params><param name="vm-password" value=""/></params></user>
        </domain></section></document>]], domain, user)
end

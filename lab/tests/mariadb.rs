//! MariaDB with Kamailio's tables serves stock auth_db and usrloc.

use lab::kamailio::{Config, Kamailio};
use lab::mariadb::{MariaDb, Options};
use lab::sipp::Sipp;

const SCRIPT: &str = r#"#!KAMAILIO
auto_aliases=no
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "db_mysql.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
loadmodule "jsonrpcs.so"
modparam("usrloc|auth_db", "db_url", DB_URL)
modparam("usrloc|auth_db", "use_domain", 1)
modparam("usrloc", "db_mode", 3)
modparam("auth_db", "calculate_ha1", 1)
modparam("auth_db", "password_column", "password")
request_route {
    if ($rm == "OPTIONS") { sl_send_reply("200", "OK"); exit; }
    if (!auth_check("$fd", "subscriber", "1")) { auth_challenge("$fd", "1"); exit; }
    save("location");
}
"#;

#[test]
fn a_registration_is_stored() {
    let mut db = MariaDb::start(Options::default()).expect("MariaDB");
    db.add_subscribers([("alice", "example.com", "it's")]).expect("a subscriber");
    let config = Config::new(SCRIPT).define_str("DB_URL", &db.url());
    let mut kamailio = Kamailio::start(config).expect("Kamailio");
    Sipp::new("register.xml")
        .users([("alice", "example.com", "it's")])
        .target(kamailio.address())
        .run_successfully()
        .unwrap_or_else(|error| panic!("{error:#}\n{}", kamailio.log()));
    assert_eq!(db.execute("SELECT username, domain FROM location").expect("a row"), "alice\texample.com\n");
    kamailio.stop().expect("a stop");
    db.stop().expect("a stop");
}

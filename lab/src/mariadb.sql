-- What stock auth_db (table version 7) and usrloc (table version 9) of Kamailio 5.6 to 6.1 expect to find, and dialog (7), with
-- dialog_vars (1), and acc (5) of Kamailio 5.6.
-- The server reads it at its start; a `;` ends a statement and stands nowhere else.

CREATE DATABASE IF NOT EXISTS kamailio CHARACTER SET latin1;
USE kamailio;

CREATE TABLE IF NOT EXISTS version (
  table_name VARCHAR(32) NOT NULL PRIMARY KEY,
  table_version INT UNSIGNED NOT NULL DEFAULT 0
);
REPLACE INTO version VALUES ('subscriber', 7), ('location', 9), ('location_attrs', 1), ('dialog', 7), ('dialog_vars', 1),
  ('acc', 5);

CREATE TABLE IF NOT EXISTS subscriber (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  username VARCHAR(64) NOT NULL DEFAULT '',
  domain VARCHAR(64) NOT NULL DEFAULT '',
  password VARCHAR(64) NOT NULL DEFAULT '',
  ha1 VARCHAR(128) NOT NULL DEFAULT '',
  ha1b VARCHAR(128) NOT NULL DEFAULT '',
  UNIQUE KEY account (username, domain)
);

CREATE TABLE IF NOT EXISTS location (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  ruid VARCHAR(64) NOT NULL DEFAULT '',
  username VARCHAR(64) NOT NULL DEFAULT '',
  domain VARCHAR(64) DEFAULT NULL,
  contact VARCHAR(512) NOT NULL DEFAULT '',
  received VARCHAR(128) DEFAULT NULL,
  path VARCHAR(512) DEFAULT NULL,
  expires DATETIME NOT NULL DEFAULT '2030-05-28 21:32:15',
  q FLOAT(10,2) NOT NULL DEFAULT 1.0,
  callid VARCHAR(255) NOT NULL DEFAULT 'Default-Call-ID',
  cseq INT NOT NULL DEFAULT 1,
  last_modified DATETIME NOT NULL DEFAULT '2000-01-01 00:00:01',
  flags INT NOT NULL DEFAULT 0,
  cflags INT NOT NULL DEFAULT 0,
  user_agent VARCHAR(255) NOT NULL DEFAULT '',
  socket VARCHAR(64) DEFAULT NULL,
  methods INT DEFAULT NULL,
  instance VARCHAR(255) DEFAULT NULL,
  reg_id INT NOT NULL DEFAULT 0,
  server_id INT NOT NULL DEFAULT 0,
  connection_id INT NOT NULL DEFAULT 0,
  keepalive INT NOT NULL DEFAULT 0,
  `partition` INT NOT NULL DEFAULT 0,
  UNIQUE KEY ruid (ruid),
  KEY account_contact (username, domain, contact),
  KEY expires (expires),
  KEY connection (server_id, connection_id)
);

CREATE TABLE IF NOT EXISTS location_attrs (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  ruid VARCHAR(64) NOT NULL DEFAULT '',
  username VARCHAR(64) NOT NULL DEFAULT '',
  domain VARCHAR(64) DEFAULT NULL,
  aname VARCHAR(64) NOT NULL DEFAULT '',
  atype INT NOT NULL DEFAULT 0,
  avalue VARCHAR(512) NOT NULL DEFAULT '',
  last_modified DATETIME NOT NULL DEFAULT '2000-01-01 00:00:01',
  KEY account_ruid (username, domain, ruid)
);

CREATE TABLE IF NOT EXISTS dialog (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  hash_entry INT UNSIGNED NOT NULL,
  hash_id INT UNSIGNED NOT NULL,
  callid VARCHAR(255) NOT NULL,
  from_uri VARCHAR(255) NOT NULL,
  from_tag VARCHAR(128) NOT NULL,
  to_uri VARCHAR(255) NOT NULL,
  to_tag VARCHAR(128) NOT NULL,
  caller_cseq VARCHAR(20) NOT NULL,
  callee_cseq VARCHAR(20) NOT NULL,
  caller_route_set VARCHAR(512) DEFAULT NULL,
  callee_route_set VARCHAR(512) DEFAULT NULL,
  caller_contact VARCHAR(255) NOT NULL,
  callee_contact VARCHAR(255) NOT NULL,
  caller_sock VARCHAR(64) NOT NULL,
  callee_sock VARCHAR(64) NOT NULL,
  state INT UNSIGNED NOT NULL,
  start_time INT UNSIGNED NOT NULL,
  timeout INT UNSIGNED NOT NULL DEFAULT 0,
  sflags INT UNSIGNED NOT NULL DEFAULT 0,
  iflags INT UNSIGNED NOT NULL DEFAULT 0,
  toroute_name VARCHAR(32) DEFAULT NULL,
  req_uri VARCHAR(255) NOT NULL,
  xdata VARCHAR(512) DEFAULT NULL,
  KEY dialog (hash_entry, hash_id)
);

CREATE TABLE IF NOT EXISTS dialog_vars (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  hash_entry INT UNSIGNED NOT NULL,
  hash_id INT UNSIGNED NOT NULL,
  dialog_key VARCHAR(128) NOT NULL,
  dialog_value VARCHAR(512) NOT NULL,
  KEY dialog (hash_entry, hash_id)
);

CREATE TABLE IF NOT EXISTS acc (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  method VARCHAR(16) NOT NULL DEFAULT '',
  from_tag VARCHAR(128) NOT NULL DEFAULT '',
  to_tag VARCHAR(128) NOT NULL DEFAULT '',
  callid VARCHAR(255) NOT NULL DEFAULT '',
  sip_code VARCHAR(3) NOT NULL DEFAULT '',
  sip_reason VARCHAR(128) NOT NULL DEFAULT '',
  time DATETIME NOT NULL,
  src_user VARCHAR(64) NOT NULL DEFAULT '',
  src_domain VARCHAR(128) NOT NULL DEFAULT '',
  src_ip VARCHAR(64) NOT NULL DEFAULT '',
  dst_ouser VARCHAR(64) NOT NULL DEFAULT '',
  dst_user VARCHAR(64) NOT NULL DEFAULT '',
  dst_domain VARCHAR(128) NOT NULL DEFAULT '',
  KEY callid (callid)
);

CREATE USER IF NOT EXISTS kamailio@'%' IDENTIFIED BY 'kamailio';
GRANT ALL ON kamailio.* TO kamailio@'%';

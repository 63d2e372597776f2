-- What stock auth_db (table version 7) and usrloc (table version 9) of Kamailio 5.6 to 6.1 expect to find.
-- The server reads it at its start; a `;` ends a statement and stands nowhere else.

CREATE DATABASE IF NOT EXISTS kamailio CHARACTER SET latin1;
USE kamailio;

CREATE TABLE IF NOT EXISTS version (
  table_name VARCHAR(32) NOT NULL PRIMARY KEY,
  table_version INT UNSIGNED NOT NULL DEFAULT 0
);
REPLACE INTO version VALUES ('subscriber', 7), ('location', 9), ('location_attrs', 1);

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

CREATE USER IF NOT EXISTS kamailio@'%' IDENTIFIED BY 'kamailio';
GRANT ALL ON kamailio.* TO kamailio@'%';

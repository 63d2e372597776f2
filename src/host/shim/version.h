/* The one place that knows how the supported versions of Kamailio differ in what src/host/ uses. All else that differs (the layout of
   structures, the strings that the loader compares) is taken from the server's headers and from the server itself by build.rs. */
#ifndef SHIM_VERSION_H
#define SHIM_VERSION_H

/* 5.7 made the whole numbers of variables and XAVPs longer. */
#if VERSIONVAL < 5007000
typedef int shim_number;
#define SHIM_XTYPE_NUMBER SR_XTYPE_INT
#define SHIM_XVAL_NUMBER i
#else
typedef long shim_number;
#define SHIM_XTYPE_NUMBER SR_XTYPE_LONG
#define SHIM_XVAL_NUMBER l
#endif

#endif

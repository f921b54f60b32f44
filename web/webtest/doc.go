// Package webtest has the doubles of what the admin API and the console are given, for
// tests of both: a boot, an audit log in memory, and a site. The domain behind them is a
// real one ([holdfast/xks/xkstest], [holdfast/appliance/appliancetest]).
package webtest

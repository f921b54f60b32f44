package console

// Local is for a fuzz test.
var Local = local

package authz

import (
	"github.com/cedar-policy/cedar-go"
	internal "github.com/cedar-policy/cedar-go/x/exp/ast"
)

// attributes is a set of the schema's attributes. Records cost more to make than
// to evaluate, so a request's have only what its candidates can see.
type attributes uint32

const (
	principalName attributes = 1 << iota
	principalPartition
	principalService
	principalRegion
	principalAccount
	principalResource
	contextTime
	contextKMSOperation
	contextViaService
	contextSourceVPC
	contextSourceVPCE
	contextKMSKeyARN
	contextKMSKeyRegion
	contextKMSKeyAccount
	contextMatches

	principalAll = contextTime - 1
	contextAll   = contextMatches<<1 - contextTime
)

var attributeNames = map[[2]string]attributes{
	{"principal", "name"}:        principalName,
	{"principal", "partition"}:   principalPartition,
	{"principal", "service"}:     principalService,
	{"principal", "region"}:      principalRegion,
	{"principal", "account"}:     principalAccount,
	{"principal", "resource"}:    principalResource,
	{"context", "time"}:          contextTime,
	{"context", "kmsOperation"}:  contextKMSOperation,
	{"context", "viaService"}:    contextViaService,
	{"context", "sourceVpc"}:     contextSourceVPC,
	{"context", "sourceVpce"}:    contextSourceVPCE,
	{"context", "kmsKeyArn"}:     contextKMSKeyARN,
	{"context", "kmsKeyRegion"}:  contextKMSKeyRegion,
	{"context", "kmsKeyAccount"}: contextKMSKeyAccount,
	{"context", "matches"}:       contextMatches,
}

var nameOf = func() map[attributes]cedar.String {
	names := map[attributes]cedar.String{}
	for name, a := range attributeNames {
		names[a] = cedar.String(name[1])
	}
	return names
}()

// attributesOf gives the attributes that the expression can see: of a variable
// that stands by itself, all.
func attributesOf(n internal.IsNode) (used attributes) {
	see := func(arg internal.IsNode, name string) bool {
		v, ok := arg.(internal.NodeTypeVariable)
		if !ok {
			return true // look inside
		}
		used |= attributeNames[[2]string{string(v.Name), name}]
		return false
	}
	internal.Inspect(internal.NewNode(n), func(n internal.IsNode) bool {
		switch n := n.(type) {
		case internal.NodeTypeAccess:
			return see(n.Arg, string(n.Value))
		case internal.NodeTypeHas:
			return see(n.Arg, string(n.Value))
		case internal.NodeTypeVariable:
			switch n.Name {
			case "principal":
				used |= principalAll
			case "context":
				used |= contextAll
			}
		}
		return true
	})
	return used
}

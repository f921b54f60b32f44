package authz

import (
	"encoding/json"

	"github.com/cedar-policy/cedar-go"
)

// Narrows says whether policies in the place of others can have a request denied that is allowed
// now: one that permits is gone or another, or one that forbids is new. Annotations do not count.
// What cannot be read narrows.
func Narrows(was, now string) bool {
	permitted, forbidden, err := byEffect(was)
	if err != nil {
		return true
	}
	permits, forbids, err := byEffect(now)
	return err != nil || !within(permitted, permits) || !within(forbids, forbidden)
}

// within says whether all of some are among others.
func within(some, others map[string]bool) bool {
	for text := range some {
		if !others[text] {
			return false
		}
	}
	return true
}

// byEffect gives policies, those that permit and those that forbid, in Cedar's JSON format.
func byEffect(text string) (permits, forbids map[string]bool, err error) {
	list, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		return nil, nil, err
	}
	permits, forbids = map[string]bool{}, map[string]bool{}
	for _, p := range list {
		encoded, err := p.MarshalJSON()
		if err != nil {
			return nil, nil, err
		}
		var tree map[string]any
		if err := json.Unmarshal(encoded, &tree); err != nil {
			return nil, nil, err
		}
		delete(tree, "annotations")
		canonical, err := json.Marshal(tree)
		if err != nil {
			return nil, nil, err
		}
		if p.Effect() == cedar.Forbid {
			forbids[string(canonical)] = true
		} else {
			permits[string(canonical)] = true
		}
	}
	return permits, forbids, nil
}

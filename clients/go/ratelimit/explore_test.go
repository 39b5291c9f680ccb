//go:build go1.25
package ratelimit
import ("testing";"testing/synctest";"fmt";"time";"os")
func TestExplore(t *testing.T){
	if os.Getenv("EXPLORE")=="" {t.Skip()}
	for _, paced := range []bool{false, true} {
	for _, load := range []float64{.9,1.5} { for _, n := range []int{3,10,100} {
	synctest.Test(t, func(t *testing.T) {
		seen := simulation{clients:n, load:load, lasts: 20*time.Second, isPaced: paced}.run(t)
		a,b := seen.excess()
		seen.service.mutex.Lock(); defer seen.service.mutex.Unlock()
		fmt.Printf("paced %5v load %.1f n %3d ratio %.4f calls %4.0f excess %.1f window %.1f failed %d\n", paced, load, n, float64(len(seen.allowed))/float64(seen.exact()), 1000*float64(seen.service.calls)/float64(len(seen.arrived)), a, b, seen.failed)
	})
	}}}
}
